"""NVIDIA DeepStream: a detector as Gst-nvinfer takes one."""
