"""Makes the recipe of the demo model importable: it is a folder of scripts, not a package."""

from __future__ import annotations

import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
sys.path.insert(0, str(DEMO))
