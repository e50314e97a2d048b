#!/usr/bin/env bash
# Checks the attention kernel with a tool of compute-sanitizer: sanitize.sh memcheck|racecheck OUT.txt BATCH,BATCH... [MODEL]
set -euo pipefail
here=$(dirname "$0")
compute-sanitizer --tool "$1" --error-exitcode 3 python3 "$here/attention_kernel.py" - "${@:3}" 2>&1 | tee "$2.partial"
mv "$2.partial" "$2"
