"""From any text to tokens on disk: reading, decoding, tokenizers, stores."""
