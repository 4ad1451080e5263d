#!/bin/sh
# One photographed page in (INPUT_FILE_PATH), one clean picture out (TMP_OUTPUT_DIR).
exec "${OCR_PYTHON:-python3}" "${OCR_HOME:-/opt/ocr}/clean.py"
