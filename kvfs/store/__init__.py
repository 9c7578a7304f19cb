"""Where entries live: one protocol (`base.Store`), many stores."""
