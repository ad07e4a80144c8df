// See handles.h.
#pragma once

#include "handles.h"
