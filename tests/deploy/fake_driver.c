/* A fake of NVIDIA's libcuda.so.1 with two GPUs, in ordinary memory: what the device layers call, and no more.
 * It knows whether a context is current and what was taken and not given back, and checks some arguments.
 * FAKE_NO_DEVICE makes cuInit fail, FAKE_BROKEN makes cuStreamSynchronize fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500, ILLEGAL = 700 };
static __thread void *contexts[16];
static __thread int depth;
static int live;
#define NEEDS_CONTEXT if (!depth) return INVALID_CONTEXT;
#define LIMIT (1ull << 30)

int fake_live(void) { return live; }
int fake_depth(void) { return depth; }
u64 fake_context(void) { return depth ? (u64)contexts[depth - 1] : 0; }

static int take(void **p, u64 n) { if (n > LIMIT) return OUT_OF_MEMORY; live++; *p = malloc(n); return OK; }
static int give(void *p) { live--; free(p); return OK; }

int cuInit(unsigned f) { return getenv("FAKE_NO_DEVICE") ? NO_DEVICE : OK; }
int cuDriverGetVersion(int *v) { *v = 13020; return OK; }
int cuDeviceGetCount(int *n) { *n = 2; return OK; }
int cuDeviceGet(int *d, int i) { *d = i; return OK; }
int cuDeviceGetName(char *b, int n, int d) { snprintf(b, n, "Fake GPU %d", d); return OK; }
int cuDeviceGetAttribute(int *r, int a, int d) { *r = a == 75 ? 8 : a == 76 ? 9 : -1; return OK; }
int cuDeviceComputeCapability(int *a, int *b, int d) { *a = 8; *b = 9; return OK; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)(0x1000ull + d); return OK; }
int cuDevicePrimaryCtxRelease_v2(int d) { return OK; }
int cuCtxGetDevice(int *d) { NEEDS_CONTEXT *d = (int)((u64)contexts[depth - 1] - 0x1000); return OK; }
int cuCtxPushCurrent_v2(void *c) { contexts[depth++] = c; return OK; }
int cuCtxPopCurrent_v2(void **c) { NEEDS_CONTEXT *c = contexts[--depth]; return OK; }
int cuMemGetInfo_v2(u64 *f, u64 *t) { NEEDS_CONTEXT *f = LIMIT; *t = 2 * LIMIT; return OK; }
int cuMemAlloc_v2(void **p, u64 n) { NEEDS_CONTEXT return take(p, n); }
int cuMemFree_v2(void *p) { NEEDS_CONTEXT return give(p); }
int cuMemHostAlloc(void **p, u64 n, unsigned f) { NEEDS_CONTEXT return take(p, n); }
int cuMemFreeHost(void *p) { NEEDS_CONTEXT return give(p); }
int cuMemcpyHtoDAsync_v2(void *d, const void *s, u64 n, void *x) { NEEDS_CONTEXT memcpy(d, s, n); return x ? OK : INVALID_VALUE; }
int cuMemcpyDtoHAsync_v2(void *d, const void *s, u64 n, void *x) { NEEDS_CONTEXT memcpy(d, s, n); return x ? OK : INVALID_VALUE; }
int cuStreamCreate(void **s, unsigned f) { NEEDS_CONTEXT return f == 1 ? take(s, 8) : INVALID_VALUE; }
int cuStreamDestroy_v2(void *s) { NEEDS_CONTEXT return give(s); }
int cuStreamSynchronize(void *s) { return getenv("FAKE_BROKEN") ? ILLEGAL : OK; }
int cuEventCreate(void **e, unsigned f) { NEEDS_CONTEXT return f ? INVALID_VALUE : take(e, 8); }
int cuEventDestroy_v2(void *e) { return give(e); }
int cuEventRecord(void *e, void *s) { *(u64 *)e = (u64)s; return OK; }
int cuEventSynchronize(void *e) { return OK; }
int cuEventElapsedTime(float *ms, void *a, void *b) { *ms = *(u64 *)a == *(u64 *)b ? 1.5f : -1; return OK; }
int cuEventElapsedTime_v2(float *ms, void *a, void *b) { return cuEventElapsedTime(ms, a, b); }
int cuStreamBeginCapture_v2(void *s, int mode) { *(u64 *)s = 7; return mode == 1 ? OK : INVALID_VALUE; }
int cuStreamEndCapture(void *s, void **g) { if (*(u64 *)s != 7) return INVALID_VALUE; *(u64 *)s = 0; return take(g, 8); }
int cuGraphInstantiateWithFlags(void **x, void *g, u64 f) { return take(x, 8); }
int cuGraphLaunch(void *x, void *s) { return *(u64 *)s == 7 ? INVALID_VALUE : OK; }
int cuGraphDestroy(void *g) { return give(g); }
int cuGraphExecDestroy(void *x) { return give(x); }
int cuGetErrorString(int e, const char **s) { *s = e == OUT_OF_MEMORY ? "out of memory" : "some error"; return OK; }

/* How cuda-python finds the functions: by the name without its version. */
int cuGetProcAddress_v2(const char *name, void **p, int version, u64 flags, int *status) {
    char versioned[128];
    void *library = dlopen("libcuda.so.1", RTLD_LAZY);
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    *p = dlsym(library, strcmp(name, "cuGraphInstantiate") ? versioned : "cuGraphInstantiateWithFlags");
    if (!*p) *p = dlsym(library, name);
    if (status) *status = *p ? 0 : 1;
    return *p ? OK : NOT_FOUND;
}
