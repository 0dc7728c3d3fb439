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
	d := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           d.DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       60 * time.Second,
		DisableCompression:    true,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
		ForceAttemptHTTP2:     false,
	}
}
