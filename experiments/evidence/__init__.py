"""Does the method work? Ways of starting a Re-ID network, compared on MiniPerson."""
