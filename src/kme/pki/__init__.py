"""pki - certificates: who may issue them, what they may say, how TLS uses them."""
