"""Reports of gateways: live workers, requests and answers."""
