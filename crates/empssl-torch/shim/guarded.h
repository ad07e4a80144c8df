// What every file of the shim shares: no exception leaves it.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

namespace empssl {

inline char *copy_text(const char *text) { return strdup(text); }

// Runs `body` and turns whatever it throws into an error text made by malloc.
template <typename Body> char *guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error &error) {
    return copy_text(error.what_without_backtrace());
  } catch (const std::exception &error) {
    return copy_text(error.what());
  } catch (...) {
    return copy_text("unknown C++ exception");
  }
}

} // namespace empssl
