#!/bin/sh
# One prediction in (INPUT_FILE_PATH), the table and the chart of all predictions so far out (TMP_OUTPUT_DIR).
# VOLUME_PATH is the folder that outlives the run; without one, /state.
exec "${DIGITS_PYTHON:-python3}" "${DIGITS_HOME:-/opt/digits}/chart.py"
