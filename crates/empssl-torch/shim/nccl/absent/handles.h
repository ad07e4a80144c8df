// The headers of ATen name the handles and statuses of libraries for algebra, whose own headers come only together with
// hundreds of megabytes of those libraries. Nothing here calls them, so the names are enough.
#pragma once

typedef struct cublasContext *cublasHandle_t;
typedef struct cublasLtContext *cublasLtHandle_t;
typedef struct cusparseContext *cusparseHandle_t;
typedef struct cusolverDnContext *cusolverDnHandle_t;

enum cublasStatus_t : int;
enum cusparseStatus_t : int;
enum cusolverStatus_t : int;
