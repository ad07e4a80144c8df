// TorchScript modules put together from names, tensors and source; see shim.h.
#include "shim.h"

#include "guarded.h"

#include <torch/csrc/jit/api/module.h>

#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

using empssl::guarded;

namespace {

torch::jit::Module &module_of(void *module) { return *static_cast<torch::jit::Module *>(module); }

at::Tensor copied(empssl_tensor tensor) { return static_cast<const at::Tensor *>(tensor)->detach().clone(); }

} // namespace

char *empssl_script_new(const char *class_name, void **module) {
  return guarded([&] {
    auto made = std::make_unique<torch::jit::Module>(c10::QualifiedName(std::string(class_name)));
    // What Module.train and Module.eval set, here and in Python.
    made->register_attribute("training", c10::BoolType::get(), false);
    *module = made.release();
  });
}

void empssl_script_free(void *module) { delete static_cast<torch::jit::Module *>(module); }

char *empssl_script_parameter(void *module, const char *name, empssl_tensor tensor) {
  return guarded([&] {
    module_of(module).register_parameter(name, copied(tensor).set_requires_grad(true), /*is_buffer=*/false);
  });
}

char *empssl_script_buffer(void *module, const char *name, empssl_tensor tensor) {
  return guarded([&] { module_of(module).register_buffer(name, copied(tensor)); });
}

char *empssl_script_child(void *module, const char *name, void *child) {
  return guarded([&] { module_of(module).register_module(name, module_of(child)); });
}

char *empssl_script_define(void *module, const char *source) {
  return guarded([&] { module_of(module).define(source); });
}

char *empssl_script_save(void *module, char **bytes, size_t *length) {
  return guarded([&] {
    std::ostringstream out;
    module_of(module).save(out);
    const auto text = std::move(out).str();
    *bytes = static_cast<char *>(std::malloc(text.size()));
    TORCH_CHECK(*bytes != nullptr, "out of memory: ", text.size(), " bytes for a module");
    std::memcpy(*bytes, text.data(), text.size());
    *length = text.size();
  });
}
