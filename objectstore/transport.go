package objectstore

import (
	"net"
	"net/http"
	"time"
)

// NewTransport gives the HTTP transport that the adapters share the settings
// of. It sets no deadline for a whole exchange (a WithRetry attempt has one)
// but for its steps, and it never asks for compressed bodies: a body that was
// unpacked on the way would no longer have the length that was asked for.
func NewTransport() *http.Transport {
	t := &http.Transport{}
	ConfigureTransport(t)
	return t
}

// ConfigureTransport gives t the settings of NewTransport and leaves its TLS
// configuration as it is.
func ConfigureTransport(t *http.Transport) {
	t.Proxy = http.ProxyFromEnvironment
	t.DialContext = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	t.TLSHandshakeTimeout = 5 * time.Second
	t.ExpectContinueTimeout = time.Second
	t.MaxIdleConns = 256
	t.MaxIdleConnsPerHost = 64
	t.IdleConnTimeout = 60 * time.Second
	t.DisableCompression = true
	t.WriteBufferSize = 64 << 10
	t.ReadBufferSize = 64 << 10
	t.ForceAttemptHTTP2 = false
}
