// The C interface of the shim: what tch does not bind, over ATen's device-neutral headers.
//
// Every function that can fail returns an error text made by malloc (null: success), which the caller gives back to
// empssl_free. No C++ exception crosses this boundary.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void empssl_free(char *text);

// The libtorch these headers belong to, as "2.11.0"; a string constant.
const char *empssl_libtorch_version(void);
// The file that libtorch_cpu was loaded from; made by malloc, null when the loader does not tell.
char *empssl_libtorch_path(void);
char *empssl_device_synchronize(int64_t index);
// The CUDA device of this thread, where nothing else says which.
char *empssl_device_make_current(int64_t index);

// Whether operators of this thread record gradients.
int32_t empssl_get_gradients(void);
void empssl_set_gradients(int32_t on);

// Sends `gradient` down the graph of `output`; both are tch's tensors.
char *empssl_backward(const void *output, const void *gradient);

// TF32: float32 products on tensor cores with a 10-bit mantissa.
char *empssl_set_tf32(int32_t convolutions, int32_t products);
char *empssl_get_tf32(int32_t *convolutions, int32_t *products);

char *empssl_set_deterministic(int32_t on);

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

// Tells malloc to keep freed blocks, whatever their size, for the next request. 1: done; 0: not with this C library.
int32_t empssl_keep_freed_memory(void);

// A tensor as tch holds it: a pointer to an at::Tensor.
typedef void *empssl_tensor;

// Operators over lists of tensors, without recording gradients. On a GPU each is a handful of launches however long
// the lists are, where all tensors of a place have the same type, sizes and strides.
// Their 2-norms, [n], in float64.
char *empssl_lists_norms(const empssl_tensor *tensors, size_t n, empssl_tensor *out);
char *empssl_lists_copy(const empssl_tensor *to, const empssl_tensor *from, size_t n);
char *empssl_lists_add(const empssl_tensor *to, const empssl_tensor *terms, size_t n, double factor);
char *empssl_lists_sgd(const empssl_tensor *parameters, const empssl_tensor *gradients, const empssl_tensor *buffers,
                       size_t n, double lr, double momentum, int32_t nesterov);
// Leaves the parameter without a gradient.
void empssl_drop_gradient(empssl_tensor parameter);

// Page-locked host memory of so many bytes, all 0, as a new tensor.
char *empssl_pinned(size_t bytes, empssl_tensor *out);

// Bytes of an owner's as a new tensor; `release(owner)` is called once, when the last tensor on them is gone or at once
// when this fails.
char *empssl_owned_bytes(void *bytes, size_t length, void *owner, void (*release)(void *), empssl_tensor *out);

// A stream of a CUDA device.
typedef struct {
  int64_t device;
  int64_t id;
} empssl_stream;
// A stream that nothing else of this program works on, out of libtorch's pool.
char *empssl_stream_from_pool(int64_t index, empssl_stream *out);
// Asks `stream` to copy bytes into a new tensor of its device, and to tell when it has; returns without waiting. The
// bytes must stay as they are until `done` is complete; after an error nothing reads them any more.
char *empssl_upload(const void *bytes, const int64_t *sizes, size_t n_sizes, empssl_stream stream, empssl_tensor *out,
                    void **done);
char *empssl_event_query(const void *event, int32_t *is_complete);
// Waits on the host.
char *empssl_event_wait(const void *event);
// Lets the current stream of the tensor's device wait for the event, not the host, and tells the allocator that this
// stream uses the tensor too.
char *empssl_event_admit(const void *event, empssl_tensor tensor);
void empssl_event_free(void *event);

// A TorchScript module that holds nothing yet but the switch between training and evaluation, which is off. Tensors are
// copied; a child is shared, and complete before its parent is defined.
char *empssl_script_new(const char *class_name, void **module);
void empssl_script_free(void *module);
char *empssl_script_parameter(void *module, const char *name, empssl_tensor tensor);
char *empssl_script_buffer(void *module, const char *name, empssl_tensor tensor);
char *empssl_script_child(void *module, const char *name, void *child);
// Adds methods, in the language of TorchScript.
char *empssl_script_define(void *module, const char *source);
// The bytes of the file that torch.jit.load reads, made by malloc.
char *empssl_script_save(void *module, char **bytes, size_t *length);

// The meeting point of processes: a table of texts, held by one of them.
typedef void *empssl_store;
char *empssl_store_open(const char *host, uint16_t port, int32_t serves, int64_t timeout_ms, empssl_store *out);
char *empssl_store_set(empssl_store store, const char *key, const char *value);
// Waits for the key.
char *empssl_store_get(empssl_store store, const char *key, int64_t timeout_ms, char **value);
void empssl_store_free(empssl_store store);

// Processes that compute together. Every rank asks for the same collectives in the same order; tensors are contiguous.
typedef void *empssl_group;
// Connects with all others by Gloo, for tensors of the CPU, and listens for them at `address`, or on the network
// interface of that name; `prefix` keeps its keys in the store apart.
char *empssl_group_new(empssl_store store, const char *prefix, const char *address, int32_t is_interface, int32_t rank,
                       int32_t world, int64_t timeout_ms, empssl_group *out);
// From now on tensors of GPUs travel by `engine`, which nccl/nccl.h makes and which is taken over.
void empssl_group_add(empssl_group group, void *engine);
void empssl_group_free(empssl_group group);
// Each returns when the tensor is what was asked for; one of a GPU at once, and what is computed with it there waits.
// The sum, or the largest, over the ranks.
char *empssl_group_all_reduce(empssl_group group, empssl_tensor tensor, int32_t largest);
// The tensors of all ranks one after the other in `to`.
char *empssl_group_all_gather(empssl_group group, empssl_tensor to, empssl_tensor tensor);
char *empssl_group_broadcast(empssl_group group, empssl_tensor tensor, int64_t root);
// Collectives so far, the bytes that this rank put into them, and the nanoseconds that the host waited for them.
typedef struct {
  uint64_t calls;
  uint64_t bytes;
  uint64_t nanoseconds;
} empssl_traffic;
void empssl_group_traffic(empssl_group group, empssl_traffic *out);

// Batch normalisation by the statistics of all ranks' parts of a batch together, with its derivative. The running
// statistics, null where they stay, move by `momentum`.
char *empssl_group_batch_norm(empssl_group group, empssl_tensor x, empssl_tensor weight, empssl_tensor bias,
                              empssl_tensor running_mean, empssl_tensor running_variance, double momentum, double eps,
                              empssl_tensor *out);

// Sums the gradients of parameters over the ranks, in flat buckets of about so many bytes, each sent as soon as its
// last gradient has arrived in a backward pass after `arm`. After an error nothing is known of the gradients.
typedef void *empssl_buckets;
char *empssl_buckets_new(empssl_group group, const empssl_tensor *parameters, size_t n, size_t bytes,
                         empssl_buckets *out);
void empssl_buckets_arm(empssl_buckets buckets);
char *empssl_buckets_finish(empssl_buckets buckets);
void empssl_buckets_free(empssl_buckets buckets);

#ifdef __cplusplus
}
#endif
