"""Print the identity of this machine for a runtime (devices/probe.py).

python workflow_scripts/probe.py openvino
"""

import json
import sys

from devices import probe

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: which runtime? python workflow_scripts/probe.py openvino")
    print(json.dumps(probe.identity({"runtime": sys.argv[1]}), indent=2))
