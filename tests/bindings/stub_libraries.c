/* The functions that TensorRT's Python bindings look for in NVIDIA's libraries when they are imported.
 * Nothing is ever called through them: the bindings are only asked for their names and signatures. */

#define STUB(name) void *name(void) { return 0; }

STUB(createInferBuilder_INTERNAL)
STUB(createInferRefitter_INTERNAL)
STUB(createInferRuntime_INTERNAL)
STUB(createNvOnnxParserRefitter_INTERNAL)
STUB(createNvOnnxParser_INTERNAL)
STUB(getBuilderPluginRegistry)
STUB(getNvOnnxParserVersion)
STUB(getPluginRegistry)
STUB(initLibNvInferPlugins)
