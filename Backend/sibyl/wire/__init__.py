"""Everything that crosses a border as bytes or fields, both directions in one file each. Pure: nothing here
connects, waits or knows where the bytes come from."""
