"""Where somebody else's code is called: filters, observers, log handlers, stores, credentials. What it does stays there.

One rule: whatever it raises or answers ends here, is counted against whoever brought it, and neither delays, loses nor
shows anything to anybody else. Nothing of ours depends on the equality or the hash of an object that is not ours.
"""
