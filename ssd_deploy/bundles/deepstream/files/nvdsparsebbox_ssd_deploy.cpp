// What an SSD detector of ssd-deploy found, for Gst-nvinfer: decode and NMS are in the graph, so rows are only read.
//
//   boxes   (D, 4) FLOAT           xyxy in pixels of the network's input, not clipped
//   scores  (D)    FLOAT           best first
//   labels  (D)    INT32 or INT64  -1 after the last detection
//
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "nvdsinfer_custom_impl.h"

namespace {

// DeepStream 9.1 calls it INT64; the headers of earlier releases have no name for it.
constexpr int kInt64 = 4;

// nvinfer leaves out a box that ends below the frame, and by the time it asks, two roundings may have put one there
// that ends with it. This share of the height keeps clear of them, and is less than 1/100 pixel of any frame up to 2500.
constexpr float kBottomShare = 1.0F / (1 << 18);

bool fail(const char* reason) {
  std::fprintf(stderr, "NvDsInferParseSsdDeploy: %s\n", reason);
  return false;
}

const NvDsInferLayerInfo* find_layer(std::vector<NvDsInferLayerInfo> const& layers, const char* name) {
  for (auto const& layer : layers) {
    if (layer.layerName != nullptr && layer.buffer != nullptr && std::strcmp(layer.layerName, name) == 0) {
      return &layer;
    }
  }
  return nullptr;
}

int64_t label_at(NvDsInferLayerInfo const& labels, unsigned int row) {
  if (static_cast<int>(labels.dataType) == kInt64) {
    return static_cast<const int64_t*>(labels.buffer)[row];
  }
  return static_cast<const int32_t*>(labels.buffer)[row];
}

}  // namespace

extern "C" bool NvDsInferParseSsdDeploy(std::vector<NvDsInferLayerInfo> const& outputLayersInfo,
                                        NvDsInferNetworkInfo const& networkInfo,
                                        NvDsInferParseDetectionParams const& detectionParams,
                                        std::vector<NvDsInferObjectDetectionInfo>& objectList) {
  const NvDsInferLayerInfo* boxes = find_layer(outputLayersInfo, "boxes");
  const NvDsInferLayerInfo* scores = find_layer(outputLayersInfo, "scores");
  const NvDsInferLayerInfo* labels = find_layer(outputLayersInfo, "labels");
  if (boxes == nullptr || scores == nullptr || labels == nullptr) {
    return fail("the model has to have the outputs boxes, scores and labels; make its bundle again");
  }
  if (boxes->dataType != FLOAT || scores->dataType != FLOAT) {
    return fail("boxes and scores have to be FLOAT; make the model's bundle again");
  }
  if (labels->dataType != INT32 && static_cast<int>(labels->dataType) != kInt64) {
    return fail("labels have to be INT32 or INT64; make the model's bundle again");
  }
  const unsigned int rows = labels->inferDims.d[0];
  if (labels->inferDims.numDims != 1 || scores->inferDims.numDims != 1 || boxes->inferDims.numDims != 2 ||
      scores->inferDims.d[0] != rows || boxes->inferDims.d[0] != rows || boxes->inferDims.d[1] != 4) {
    return fail("boxes have to be (D, 4), scores and labels (D); make the model's bundle again");
  }
  if (detectionParams.perClassPreclusterThreshold.size() < detectionParams.numClassesConfigured) {
    return fail("there are fewer thresholds than classes");
  }

  const float width = static_cast<float>(networkInfo.width);
  const float height = static_cast<float>(networkInfo.height) * (1.0F - kBottomShare);
  const float* box = static_cast<const float*>(boxes->buffer);
  const float* score = static_cast<const float*>(scores->buffer);
  std::vector<NvDsInferObjectDetectionInfo> found;
  for (unsigned int row = 0; row < rows; ++row, box += 4, ++score) {
    const int64_t label = label_at(*labels, row);
    if (label < 0) {
      break;
    }
    if (label >= static_cast<int64_t>(detectionParams.numClassesConfigured)) {
      return fail("a label is beyond num-detected-classes, which has to be the number of lines in labels.txt");
    }
    if (!std::isfinite(*score) || !std::all_of(box, box + 4, [](float side) { return std::isfinite(side); })) {
      return fail("a score or a box is not finite; compare the model's precision with float32");
    }
    if (*score < detectionParams.perClassPreclusterThreshold[static_cast<size_t>(label)]) {
      continue;
    }
    const float left = std::min(std::max(box[0], 0.0F), width);
    const float top = std::min(std::max(box[1], 0.0F), height);
    const float right = std::min(std::max(box[2], 0.0F), width);
    const float bottom = std::min(std::max(box[3], 0.0F), height);
    // Outside of the frame, or turned inside out.
    if (right <= left || bottom <= top) {
      continue;
    }
    // All fields that a release may have beside these are zero.
    NvDsInferObjectDetectionInfo object{};
    object.classId = static_cast<unsigned int>(label);
    object.left = left;
    object.top = top;
    object.width = right - left;
    object.height = bottom - top;
    object.detectionConfidence = std::min(*score, 1.0F);
    found.push_back(object);
  }
  objectList.insert(objectList.end(), found.begin(), found.end());
  return true;
}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseSsdDeploy);
