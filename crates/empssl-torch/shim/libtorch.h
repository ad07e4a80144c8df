// Which libtorch the headers belong to.
#pragma once

#include <torch/headeronly/version.h>

#define EMPSSL_TEXT_OF(x) #x
#define EMPSSL_TEXT(x) EMPSSL_TEXT_OF(x)

// As "2.11.0".
#define EMPSSL_LIBTORCH \
  EMPSSL_TEXT(TORCH_VERSION_MAJOR) "." EMPSSL_TEXT(TORCH_VERSION_MINOR) "." EMPSSL_TEXT(TORCH_VERSION_PATCH)
