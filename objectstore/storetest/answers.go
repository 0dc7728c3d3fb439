package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/firnlog/firn/objectstore"
)

// RunAnswers tries a store over HTTP against a server that refuses everything,
// with each status that matters: the error must be of the right kind, and the
// client must not have tried again by itself, since WithRetry is the one retry
// policy. body gives the provider's error document for a status and a code of
// S3's ("" for a body that no client can read).
func RunAnswers(t *testing.T, body func(status int, code string) string, open func(t testing.TB, addr string) objectstore.Store) {
	t.Helper()
	for _, tc := range []struct {
		status int
		code   string
		want   error
	}{
		{http.StatusForbidden, "AccessDenied", objectstore.ErrDenied},
		{http.StatusUnauthorized, "InvalidAccessKeyId", objectstore.ErrDenied},
		{http.StatusBadRequest, "InvalidArgument", objectstore.ErrInvalid},
		{http.StatusTooManyRequests, "TooManyRequests", objectstore.ErrThrottled},
		{http.StatusInternalServerError, "InternalError", objectstore.ErrUnavailable},
		{http.StatusBadGateway, "", objectstore.ErrUnavailable},
		{http.StatusGatewayTimeout, "", objectstore.ErrUnavailable},
	} {
		t.Run(http.StatusText(tc.status), func(t *testing.T) {
			var requests atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				doc := "<html>no document of the provider</html>"
				if tc.code != "" {
					doc = body(tc.status, tc.code)
				}
				if strings.HasPrefix(doc, "{") {
					w.Header().Set("Content-Type", "application/json")
				} else {
					w.Header().Set("Content-Type", "application/xml")
				}
				w.WriteHeader(tc.status)
				if r.Method != http.MethodHead {
					_, _ = io.WriteString(w, doc)
				}
			}))
			defer srv.Close()
			s := open(t, strings.TrimPrefix(srv.URL, "http://"))
			defer func() { _ = s.Close() }()
			ctx := patient(t)
			for name, call := range map[string]func(context.Context) error{
				"put": func(ctx context.Context) error {
					_, err := s.Put(ctx, "k", bytes.NewReader([]byte("x")), 1)
					return err
				},
				"large put": func(ctx context.Context) error {
					_, err := s.Put(ctx, "k", bytes.NewReader(make([]byte, 17<<20)), 17<<20)
					return err
				},
				"swap": func(ctx context.Context) error { _, err := s.Swap(ctx, "k", []byte("x"), ""); return err },
				"get": func(ctx context.Context) error {
					_, err := s.GetRange(ctx, "k", 5, 10)
					return err
				},
				"head":   func(ctx context.Context) error { _, err := s.Head(ctx, "k"); return err },
				"delete": func(ctx context.Context) error { return s.Delete(ctx, "k") },
				"list": func(ctx context.Context) error {
					for _, err := range s.List(ctx, "", "") {
						return err
					}
					return errors.New("listed nothing")
				},
			} {
				before := requests.Load()
				err := call(ctx)
				wantErr(t, name, err, tc.want)
				if got := objectstore.Retryable(err); got != (tc.want == objectstore.ErrThrottled || tc.want == objectstore.ErrUnavailable) {
					t.Errorf("%s: %v counts as worth a retry: %v", name, err, got)
				}
				if n := requests.Load() - before; n != 1 {
					t.Errorf("%s: %d requests, want 1", name, n)
				}
			}
		})
	}
}
