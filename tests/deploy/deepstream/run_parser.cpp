// Calls the bundle's parser as nvinfer does, for each case that comes on standard input, and prints what it found.
//
// A case: width, height, classes, number of thresholds (uint32), thresholds (float32), number of layers (uint32). A layer:
// bytes of its name or -1 for none (int32), the name, data type (int32), dimensions (uint32 and eight of uint32), bytes of
// its buffer or -1 for none (int32), the buffer. Every buffer has memory of its own, so that a sanitizer sees its ends.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "nvdsinfer_custom_impl.h"

extern "C" bool NvDsInferParseSsdDeploy(std::vector<NvDsInferLayerInfo> const&, NvDsInferNetworkInfo const&,
                                        NvDsInferParseDetectionParams const&,
                                        std::vector<NvDsInferObjectDetectionInfo>&);

static bool read_bytes(void* to, size_t count) { return count == 0 || std::fread(to, count, 1, stdin) == 1; }

template <typename T>
static T read_value() {
  T value;
  if (!read_bytes(&value, sizeof value)) std::exit(3);
  return value;
}

int main() {
  uint32_t width;
  while (read_bytes(&width, sizeof width)) {
    NvDsInferNetworkInfo network{width, read_value<uint32_t>(), 3};
    NvDsInferParseDetectionParams params;
    params.numClassesConfigured = read_value<uint32_t>();
    params.perClassPreclusterThreshold.resize(read_value<uint32_t>());
    for (float& threshold : params.perClassPreclusterThreshold) threshold = read_value<float>();
    std::vector<NvDsInferLayerInfo> layers(read_value<uint32_t>());
    std::vector<std::unique_ptr<char[]>> memory;
    auto read_buffer = [&memory](size_t count, size_t more) {
      memory.emplace_back(new char[count + more]());
      if (!read_bytes(memory.back().get(), count)) std::exit(3);
      return memory.back().get();
    };
    for (NvDsInferLayerInfo& layer : layers) {
      layer = NvDsInferLayerInfo{};
      int32_t count = read_value<int32_t>();
      layer.layerName = count < 0 ? nullptr : read_buffer(static_cast<size_t>(count), 1);
      layer.dataType = static_cast<NvDsInferDataType>(read_value<int32_t>());
      layer.inferDims.numDims = read_value<uint32_t>();
      layer.inferDims.numElements = 1;
      for (uint32_t& side : layer.inferDims.d) side = read_value<uint32_t>();
      for (uint32_t i = 0; i < layer.inferDims.numDims; ++i) layer.inferDims.numElements *= layer.inferDims.d[i];
      count = read_value<int32_t>();
      layer.buffer = count < 0 ? nullptr : read_buffer(static_cast<size_t>(count), 0);
    }
    // What other frames left must stay.
    std::vector<NvDsInferObjectDetectionInfo> found(1);
    const bool worked = NvDsInferParseSsdDeploy(layers, network, params, found);
    std::printf("%s %zu\n", worked ? "true" : "false", found.size() - 1);
    for (size_t i = 1; i < found.size(); ++i) {
      auto const& one = found[i];
      std::printf("%u %.9g %.9g %.9g %.9g %.9g %.9g\n", one.classId, one.left, one.top, one.width, one.height,
                  one.detectionConfidence, one.rotation_angle);
    }
  }
}
