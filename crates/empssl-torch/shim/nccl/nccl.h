// The C interface of libempssl_nccl.so: NCCL, in an object of its own.
//
// A program that names ProcessGroupNCCL cannot be linked, nor started, without CUDA's part of libtorch. So the program
// does not; it opens this object when a process is to compute with others on a GPU, after CUDA's part of libtorch.
// `cargo xtask setup --nccl` compiles it.
#pragma once

#include "../libtorch.h"

#include <stdint.h>

// Raised with every change of the declarations below or of what they mean.
#define EMPSSL_NCCL_INTERFACE 2

// What an object must have been built as.
#define EMPSSL_NCCL_BUILD "interface " EMPSSL_TEXT(EMPSSL_NCCL_INTERFACE) ", libtorch " EMPSSL_LIBTORCH

#ifdef __cplusplus
extern "C" {
#endif

#define EMPSSL_NCCL_EXPORT __attribute__((visibility("default")))

// What this object was built as; a string constant. The one thing to ask of an object that is not known yet.
EMPSSL_NCCL_EXPORT const char *empssl_nccl_build(void);

// Connects GPU `device` of this process with those of the others, and returns when all have; the engine is what
// empssl_group_add takes. From then on c10d's own watchdog ends the process when a collective fails or takes longer than
// `timeout_ms`. `store` is an empssl_store. The error text is made by malloc.
EMPSSL_NCCL_EXPORT char *empssl_nccl_connect(void *store, const char *prefix, int32_t rank, int32_t world,
                                             int32_t device, int64_t timeout_ms, void **engine);

#ifdef __cplusplus
}
#endif
