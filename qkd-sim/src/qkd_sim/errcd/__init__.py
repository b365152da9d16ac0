"""errcd - sifted key to final key: estimate, reconcile, verify, amplify."""
