"""NIP: neurons are made to defend the image (Chen et al. 2021, arXiv 2112.13060); candidates, adaptive attackers, controls."""
