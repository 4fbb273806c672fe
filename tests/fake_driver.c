/* A fake of NVIDIA's libcuda.so.1 with two GPUs, in ordinary memory: what the device layers and the stand-in for
 * TensorRT call, and no more.
 *
 * Work in a stream waits until somebody waits for it, so that a missing wait shows as a wrong answer. Every handle and
 * every range of memory is looked up when it is named, and again when the work is done; a capture records.
 * FAKE_NO_DEVICE makes cuInit fail, FAKE_BROKEN makes cuStreamSynchronize fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
    NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901
};
enum { DEVICE_MEMORY, HOST_MEMORY, STREAM, EVENT, GRAPH, GRAPH_EXEC };

/* A copy, a mark in an event, or a call of the host's; chained in the order in which they were queued. */
struct work { char *to; const char *from; u64 size; struct thing *event; void (*call)(void *); void *data; struct work *next; };

/* Whatever was taken and not given back. An event's `stream` is where it was recorded last. */
struct thing {
    int kind;
    char *memory;
    u64 size;
    struct work *first;
    struct thing *capture, *stream;
    int is_broken, is_passed;
    struct thing *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct thing *things;
static int live, fault;
static __thread void *contexts[16];
static __thread int depth, captures;
#define LIMIT (1ull << 30)
#define NEEDS_CONTEXT if (!depth) return INVALID_CONTEXT;
#define NOT_IN_CAPTURE if (captures) return CAPTURE_UNSUPPORTED;
#define LOCKED(...) { int status = OK; pthread_mutex_lock(&lock); do __VA_ARGS__ while (0); pthread_mutex_unlock(&lock); return status; }
#define FAIL(code) { status = code; break; }

int fake_live(void) { return live; }
int fake_depth(void) { return depth; }
u64 fake_context(void) { return depth ? (u64)contexts[depth - 1] : 0; }
/* What work in a stream went wrong with; the next wait returns it. */
void fake_fault(int code) { __sync_bool_compare_and_swap(&fault, OK, code); }

static struct thing *find(int kind, void *handle) {
    for (struct thing *each = things; each; each = each->next) if (each->kind == kind && each == handle) return each;
    return NULL;
}

static struct thing *around(int kind, const char *address, u64 size) {
    for (struct thing *each = things; each; each = each->next)
        if (each->kind == kind && each->memory <= address && address + size <= each->memory + each->size) return each;
    return NULL;
}

static struct thing *take(int kind) {
    struct thing *made = calloc(1, sizeof *made);
    made->kind = kind;
    made->next = things;
    things = made;
    live++;
    return made;
}

static void forget(struct work *first) {
    while (first) { struct work *next = first->next; free(first); first = next; }
}

static int give(struct thing *given) {
    struct thing **link = &things;
    if (!given) return INVALID_HANDLE;
    while (*link != given) link = &(*link)->next;
    *link = given->next;
    forget(given->first);
    free(given->memory);
    free(given);
    live--;
    return OK;
}

static void append(struct thing *holder, struct work one) {
    struct work **end = &holder->first;
    while (*end) end = &(*end)->next;
    *end = malloc(sizeof one);
    one.next = NULL;
    **end = one;
}

static int queue(void *stream, struct work one) {
    struct thing *known = find(STREAM, stream);
    if (!known) return INVALID_HANDLE;
    append(known->capture ? known->capture : known, one);
    return OK;
}

static int allocate(int kind, void **address, u64 size) {
    NEEDS_CONTEXT NOT_IN_CAPTURE
    if (size > LIMIT) return OUT_OF_MEMORY;
    LOCKED({
        struct thing *made = take(kind);
        made->size = size;
        made->memory = aligned_alloc(256, (size + 255) / 256 * 256);
        memset(made->memory, 0xCD, size);
        *address = made->memory;
    })
}

static int release(int kind, void *address) {
    NEEDS_CONTEXT NOT_IN_CAPTURE
    LOCKED({
        struct thing *known = around(kind, address, 0);
        if (!known || known->memory != address) FAIL(INVALID_VALUE)
        status = give(known);
    })
}

static int copy(void *to, const void *from, u64 size, void *stream, int to_kind, int from_kind) {
    NEEDS_CONTEXT
    LOCKED({
        if (!around(to_kind, to, size) || !around(from_kind, from, size)) FAIL(INVALID_VALUE)
        status = queue(stream, (struct work){.to = to, .from = from, .size = size});
    })
}

/* Do what is queued in a stream; the host's calls are made without the lock. */
static void run(struct thing *stream) {
    for (;;) {
        pthread_mutex_lock(&lock);
        struct work *one = stream->first;
        if (one) {
            stream->first = one->next;
            if (one->event && find(EVENT, one->event)) one->event->is_passed = 1;
            if (one->size) {
                int there = (around(DEVICE_MEMORY, one->to, one->size) || around(HOST_MEMORY, one->to, one->size)) &&
                    (around(DEVICE_MEMORY, one->from, one->size) || around(HOST_MEMORY, one->from, one->size));
                if (there) memcpy(one->to, one->from, one->size);
                else fake_fault(ILLEGAL_ADDRESS);
            }
        }
        pthread_mutex_unlock(&lock);
        if (!one) return;
        if (one->call) one->call(one->data);
        free(one);
    }
}

int cuInit(unsigned f) { return getenv("FAKE_NO_DEVICE") ? NO_DEVICE : OK; }
int cuDriverGetVersion(int *v) { *v = 13020; return OK; }
int cuDeviceGetCount(int *n) { *n = 2; return OK; }
int cuDeviceGet(int *d, int i) { *d = i; return OK; }
int cuDeviceGetName(char *b, int n, int d) { snprintf(b, n, "Fake GPU %d", d); return OK; }
int cuDeviceGetAttribute(int *r, int a, int d) { *r = a == 75 ? 8 : a == 76 ? 9 : -1; return OK; }
int cuDeviceComputeCapability(int *a, int *b, int d) { *a = 8; *b = 9; return OK; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)(0x1000ull + d); return OK; }
int cuDevicePrimaryCtxRelease_v2(int d) { return OK; }
int cuCtxGetCurrent(void **c) { *c = (void *)fake_context(); return OK; }
int cuCtxGetDevice(int *d) { NEEDS_CONTEXT *d = (int)((u64)contexts[depth - 1] - 0x1000); return OK; }
int cuCtxPushCurrent_v2(void *c) { contexts[depth++] = c; return OK; }
int cuCtxPopCurrent_v2(void **c) { NEEDS_CONTEXT *c = contexts[--depth]; return OK; }

int cuMemGetInfo_v2(u64 *f, u64 *t) { NEEDS_CONTEXT *f = LIMIT; *t = 2 * LIMIT; return OK; }
int cuMemAlloc_v2(void **p, u64 n) { return allocate(DEVICE_MEMORY, p, n); }
int cuMemFree_v2(void *p) { return release(DEVICE_MEMORY, p); }
int cuMemHostAlloc(void **p, u64 n, unsigned f) { return allocate(HOST_MEMORY, p, n); }
int cuMemFreeHost(void *p) { return release(HOST_MEMORY, p); }
int cuMemGetAddressRange_v2(void **base, u64 *size, void *p) LOCKED({
    struct thing *known = around(DEVICE_MEMORY, p, 0);
    if (!known) FAIL(NOT_FOUND)
    *base = known->memory;
    *size = known->size;
})
int cuMemcpyHtoDAsync_v2(void *d, const void *s, u64 n, void *x) { return copy(d, s, n, x, DEVICE_MEMORY, HOST_MEMORY); }
int cuMemcpyDtoHAsync_v2(void *d, const void *s, u64 n, void *x) { return copy(d, s, n, x, HOST_MEMORY, DEVICE_MEMORY); }

int cuStreamCreate(void **s, unsigned f) {
    NEEDS_CONTEXT
    LOCKED({
        if (f != 1) FAIL(INVALID_VALUE)
        *s = take(STREAM);
    })
}
int cuStreamDestroy_v2(void *s) {
    NEEDS_CONTEXT
    LOCKED({
        struct thing *known = find(STREAM, s);
        if (known && (known->first || known->capture)) FAIL(NOT_READY)
        status = give(known);
    })
}
int cuStreamSynchronize(void *s) {
    pthread_mutex_lock(&lock);
    struct thing *known = find(STREAM, s);
    int captured = known && known->capture;
    if (captured) known->capture->is_broken = 1;
    pthread_mutex_unlock(&lock);
    if (getenv("FAKE_BROKEN")) return ILLEGAL_ADDRESS;
    if (!known) return INVALID_HANDLE;
    if (captured) return CAPTURE_UNSUPPORTED;
    run(known);
    return __sync_lock_test_and_set(&fault, OK);
}
int cuLaunchHostFunc(void *s, void (*call)(void *), void *data) {
    NEEDS_CONTEXT
    LOCKED({ status = queue(s, (struct work){.call = call, .data = data}); })
}

int cuEventCreate(void **e, unsigned f) {
    NEEDS_CONTEXT
    LOCKED({
        if (f) FAIL(INVALID_VALUE)
        *e = take(EVENT);
    })
}
int cuEventDestroy_v2(void *e) LOCKED({ status = give(find(EVENT, e)); })
int cuEventRecord(void *e, void *s) LOCKED({
    struct thing *known = find(EVENT, e);
    if (!known) FAIL(INVALID_HANDLE)
    known->stream = find(STREAM, s);
    known->is_passed = 0;
    status = queue(s, (struct work){.event = known});
})
int cuEventSynchronize(void *e) {
    struct thing *known = find(EVENT, e);
    return known && known->stream ? cuStreamSynchronize(known->stream) : INVALID_HANDLE;
}
int cuEventElapsedTime(float *ms, void *a, void *b) LOCKED({
    struct thing *start = find(EVENT, a), *end = find(EVENT, b);
    if (!start || !end || start->stream != end->stream) FAIL(INVALID_HANDLE)
    if (!start->is_passed || !end->is_passed) FAIL(NOT_READY)
    *ms = 1.5f;
})
int cuEventElapsedTime_v2(float *ms, void *a, void *b) { return cuEventElapsedTime(ms, a, b); }

int cuStreamBeginCapture_v2(void *s, int mode) LOCKED({
    struct thing *known = find(STREAM, s);
    if (!known || known->capture) FAIL(INVALID_HANDLE)
    if (mode != 1 || known->first) FAIL(INVALID_VALUE)
    known->capture = take(GRAPH);
    captures++;
})
int cuStreamIsCapturing(void *s, int *is) LOCKED({
    struct thing *known = find(STREAM, s);
    if (!known) FAIL(INVALID_HANDLE)
    *is = known->capture ? 1 + known->capture->is_broken : 0;
})
int cuStreamEndCapture(void *s, void **g) LOCKED({
    struct thing *known = find(STREAM, s);
    *g = NULL;
    if (!known || !known->capture) FAIL(INVALID_VALUE)
    captures--;
    *g = known->capture;
    known->capture = NULL;
    if (((struct thing *)*g)->is_broken) { give(*g); *g = NULL; status = CAPTURE_INVALIDATED; }
})
int cuGraphInstantiateWithFlags(void **x, void *g, u64 f) LOCKED({
    struct thing *graph = find(GRAPH, g);
    if (!graph) FAIL(INVALID_HANDLE)
    struct thing *made = take(GRAPH_EXEC);
    for (struct work *each = graph->first; each; each = each->next) append(made, *each);
    *x = made;
})
int cuGraphLaunch(void *x, void *s) LOCKED({
    struct thing *made = find(GRAPH_EXEC, x);
    struct thing *known = find(STREAM, s);
    if (!made || !known || known->capture) FAIL(INVALID_HANDLE)
    for (struct work *each = made->first; each; each = each->next) append(known, *each);
})
int cuGraphDestroy(void *g) LOCKED({ status = give(find(GRAPH, g)); })
int cuGraphExecDestroy(void *x) LOCKED({ status = give(find(GRAPH_EXEC, x)); })
int cuGetErrorString(int e, const char **s) {
    *s = e == OUT_OF_MEMORY ? "out of memory" : e == ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
        : e == LAUNCH_FAILED ? "unspecified launch failure" : "some error";
    return OK;
}

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
