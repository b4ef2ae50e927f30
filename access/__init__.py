"""Who may do what: bearer tokens as Cognito issues them, and a policy that denies by default."""
