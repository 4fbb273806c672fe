"""TensorRT engines: built from an exported ONNX file, kept in a cache, described by a JSON, checked before they run."""
