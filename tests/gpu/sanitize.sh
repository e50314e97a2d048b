#!/usr/bin/env bash
# Checks the attention kernel with a tool of compute-sanitizer: sanitize.sh memcheck|racecheck BATCH,BATCH... OUT.txt
set -euo pipefail
here=$(dirname "$0")
compute-sanitizer --tool "$1" --error-exitcode 3 python3 "$here/attention_kernel.py" - "$2" 2>&1 | tee "$3.partial"
mv "$3.partial" "$3"
