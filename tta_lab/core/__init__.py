"""The one loop and what everything else is made of: adapter, parts, knobs, trace. It imports
nothing of the other packages."""
