"""TensorRT engines: built from an exported ONNX file, kept in a cache, described by a JSON, checked before they run.

build.py      ONNX file -> engine in the cache: look, build, write, read back
plan.py       ONNX file -> plan, with TensorRT's builder
inspector.py  plan -> in which precision its convolutions compute
cache.py      where engines lie, what they are called, and who may build one
file.py       build options, and the JSON beside a plan
check.py      whether a plan and its JSON fit each other, this GPU and this version of TensorRT
flavours.py   TensorRT and TensorRT for RTX: what tells them apart
bindings.py   their Python modules, and what they log
"""
