// The part of DeepStream's interface that a parser of boxes touches, written from its documentation: names, order and
// types of the fields are those of `nvdsinfer.h` and `nvdsinfer_custom_impl.h`. EARLIER_RELEASE leaves out what
// releases before had not.
#pragma once

#include <vector>

#define NVDSINFER_MAX_DIMS 8

typedef enum {
  FLOAT = 0,
  HALF = 1,
  INT8 = 2,
  INT32 = 3,
#ifndef EARLIER_RELEASE
  INT64 = 4,
  UINT8 = 5,
#endif
} NvDsInferDataType;

typedef struct {
  unsigned int numDims;
  unsigned int d[NVDSINFER_MAX_DIMS];
  unsigned int numElements;
} NvDsInferDims;

typedef struct {
  NvDsInferDataType dataType;
  union {
    NvDsInferDims inferDims;
    NvDsInferDims dims;
  };
  int bindingIndex;
  const char* layerName;
  void* buffer;
  int isInput;
} NvDsInferLayerInfo;

typedef struct {
  unsigned int width;
  unsigned int height;
  unsigned int channels;
} NvDsInferNetworkInfo;

typedef struct {
  unsigned int classId;
  float left;
  float top;
  float width;
  float height;
  float detectionConfidence;
#ifndef EARLIER_RELEASE
  float rotation_angle;
#endif
} NvDsInferObjectDetectionInfo;

typedef struct {
  unsigned int numClassesConfigured;
  std::vector<float> perClassPreclusterThreshold;
  std::vector<float> perClassPostclusterThreshold;
  std::vector<float>& perClassThreshold = perClassPreclusterThreshold;
} NvDsInferParseDetectionParams;

typedef bool (*NvDsInferParseCustomFunc)(std::vector<NvDsInferLayerInfo> const& outputLayersInfo,
                                         NvDsInferNetworkInfo const& networkInfo,
                                         NvDsInferParseDetectionParams const& detectionParams,
                                         std::vector<NvDsInferObjectDetectionInfo>& objectList);

// As DeepStream's macro, it does not compile where a function has another signature.
#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(function) \
  static_assert(static_cast<NvDsInferParseCustomFunc>(&function) != nullptr, "the signature of a parser of boxes")
