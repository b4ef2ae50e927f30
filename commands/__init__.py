"""The groups of commands below `followup`: models, audit, access, keys."""
