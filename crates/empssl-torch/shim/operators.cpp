// Which operators this thread calls; see shim.h.
#include "shim.h"

#include "guarded.h"

#include <ATen/record_function.h>

#include <memory>
#include <string>

using empssl::copy_text;
using empssl::guarded;

namespace {

struct Recording {
  at::CallbackHandle handle = 0;
  int64_t depth = 0;
  std::string names;
};

thread_local std::unique_ptr<Recording> recording;

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction &function) {
  if (recording != nullptr && recording->depth++ == 0) {
    recording->names.append(function.name()).push_back('\n');
  }
  return nullptr;
}

void on_end(const at::RecordFunction &, at::ObserverContext *) {
  if (recording != nullptr) {
    --recording->depth;
  }
}

} // namespace

char *empssl_operators_start(void) {
  return guarded([&] {
    TORCH_CHECK(recording == nullptr, "the operators of this thread are being recorded already");
    recording = std::make_unique<Recording>();
    auto callback = at::RecordFunctionCallback(on_start, on_end).scopes({at::RecordScope::FUNCTION});
    recording->handle = at::addThreadLocalCallback(callback);
  });
}

char *empssl_operators_stop(char **names) {
  return guarded([&] {
    TORCH_CHECK(recording != nullptr, "the operators of this thread are not being recorded");
    at::removeCallback(recording->handle);
    *names = copy_text(recording->names.c_str());
    recording.reset();
  });
}
