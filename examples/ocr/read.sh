#!/bin/sh
# One clean picture in (INPUT_FILE_PATH), its text and its boxes out (TMP_OUTPUT_DIR).
# One core per page: pages run beside each other, so threads within one only get into each other's way.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
exec "${OCR_PYTHON:-python3}" "${OCR_HOME:-/opt/ocr}/read.py"
