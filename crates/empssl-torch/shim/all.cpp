// The whole shim as one unit.
#include "shim.cpp"
#include "lists.cpp"
#include "mapped.cpp"
#include "script.cpp"
#include "streams.cpp"
#include "groups.cpp"
#include "shared_norm.cpp"
#include "buckets.cpp"
