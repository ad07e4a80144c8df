"""Makes the small CIFAR folders beside this file: the first records of the official files, as records and as pickles.

Every pickle is written by another combination of Python, numpy and protocol, as such files are met in practice. Run it
once under Python 2.7 with numpy 1.16 (these write the files as the authors of CIFAR did) and once under Python 3 with
numpy 2, in any order:

    python2 make_pickles.py DIR    # DIR holds the official cifar-10-batches-bin and cifar-100-binary
    python3 make_pickles.py DIR
"""

from __future__ import print_function

import io
import os
import pickle
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
RECORDS = 2
PYTHON = sys.version_info[0]

# (official file of records, label bytes, pickle, Python that writes it, protocol)
CIFAR10 = [
    ("data_batch_1.bin", 1, "data_batch_1", 2, 2),
    ("data_batch_2.bin", 1, "data_batch_2", 2, 0),
    ("data_batch_3.bin", 1, "data_batch_3", 2, 1),
    ("data_batch_4.bin", 1, "data_batch_4", 3, 4),
    ("data_batch_5.bin", 1, "data_batch_5", 3, 5),
    ("test_batch.bin", 1, "test_batch", 3, 2),
]
CIFAR100 = [("train.bin", 2, "train", 2, 2), ("test.bin", 2, "test", 3, 3)]


def read(path):
    with io.open(path, "rb") as file:
        return file.read()


def write(folder, name, data):
    folder = os.path.join(HERE, folder)
    if not os.path.isdir(folder):
        os.makedirs(folder)
    with io.open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def names(path):
    return [name for name in read(path).decode("ascii").split("\n") if name]


def batch(records, n_labels, title):
    """What the authors put into a batch; labels are lists of int, texts are the native `str` of the Python."""
    rows = np.frombuffer(records, np.uint8).reshape(RECORDS, n_labels + 3072)
    content = {
        "batch_label": title,
        "data": np.ascontiguousarray(rows[:, n_labels:]),
        "filenames": ["image_%06d.png" % place for place in range(RECORDS)],
    }
    if n_labels == 1:
        content["labels"] = rows[:, 0].tolist()
    else:
        content["coarse_labels"] = rows[:, 0].tolist()
        content["fine_labels"] = rows[:, 1].tolist()
    return content


def make(source, binary, python, files, meta_name, meta):
    source = os.path.join(source, binary)
    for records_file, n_labels, name, writer, protocol in files:
        records = read(os.path.join(source, records_file))[: RECORDS * (n_labels + 3072)]
        write(binary, records_file, records)
        if writer == PYTHON:
            write(python, name, pickle.dumps(batch(records, n_labels, "excerpt of " + name), protocol))
    if PYTHON == 2:
        meta = dict((key, [str(name) for name in value]) for key, value in meta.items())
        write(python, meta_name, pickle.dumps(meta, 2))


def main():
    source = sys.argv[1]
    ten, hundred = os.path.join(source, "cifar-10-batches-bin"), os.path.join(source, "cifar-100-binary")
    label_names = names(os.path.join(ten, "batches.meta.txt"))
    fine = names(os.path.join(hundred, "fine_label_names.txt"))
    coarse = names(os.path.join(hundred, "coarse_label_names.txt"))
    make(source, "cifar-10-batches-bin", "cifar-10-batches-py", CIFAR10, "batches.meta", {"label_names": label_names})
    meta = {"fine_label_names": fine, "coarse_label_names": coarse}
    make(source, "cifar-100-binary", "cifar-100-python", CIFAR100, "meta", meta)
    write("cifar-10-batches-bin", "batches.meta.txt", read(os.path.join(ten, "batches.meta.txt")))
    write("cifar-100-binary", "fine_label_names.txt", read(os.path.join(hundred, "fine_label_names.txt")))
    print("Python %d, numpy %s: done" % (PYTHON, np.__version__))


if __name__ == "__main__":
    main()
