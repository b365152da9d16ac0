"""rest - one worker of the rest service: SAEs and peers behind Traefik, keys in Vault."""
