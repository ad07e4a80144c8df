// The C interface of the shim: what tch does not bind, over ATen's device-neutral headers.
//
// Every function that can fail returns an error text made by malloc (null: success), which the caller gives back to
// empssl_free. No C++ exception crosses this boundary.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void empssl_free(char *text);

// The libtorch these headers belong to, as "2.11.0"; a string constant.
const char *empssl_libtorch_version(void);
// The file that libtorch_cpu was loaded from; made by malloc, null when the loader does not tell.
char *empssl_libtorch_path(void);
// Whether CUDA's part of libtorch has registered itself in this process, and the number of devices it sees.
char *empssl_cuda_device_count(int32_t *registered, int64_t *count);
char *empssl_device_synchronize(int64_t index);

// Whether operators of this thread record gradients.
int32_t empssl_get_gradients(void);
void empssl_set_gradients(int32_t on);

// Sends `gradient` down the graph of `output`; both are tch's tensors.
char *empssl_backward(const void *output, const void *gradient);

// TF32: float32 products on tensor cores with a 10-bit mantissa.
char *empssl_set_tf32(int32_t convolutions, int32_t products);
char *empssl_get_tf32(int32_t *convolutions, int32_t *products);

char *empssl_set_deterministic(int32_t on);
char *empssl_get_deterministic(int32_t *on);

// Bytes on a CUDA device. `peak` is the largest sum of allocated blocks since the last reset.
typedef struct {
  uint64_t allocated;
  uint64_t peak;
  uint64_t reserved;
  uint64_t free;
  uint64_t total;
} empssl_device_memory;
char *empssl_get_device_memory(int64_t index, empssl_device_memory *out);
char *empssl_reset_peak_device_memory(int64_t index);

#ifdef __cplusplus
}
#endif
