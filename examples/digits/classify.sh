#!/bin/sh
# One picture in (INPUT_FILE_PATH), one small JSON file out (TMP_OUTPUT_DIR).
# A matrix of 64 x 64 gains nothing from more threads, and starting them costs more than the arithmetic.
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
exec "${DIGITS_PYTHON:-python3}" "${DIGITS_HOME:-/opt/digits}/classify.py"
