package slow

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// through gives a client whose requests go to h by way of a proxy.
func through(t *testing.T, h http.HandlerFunc, firstByte time.Duration, rate int64) (url string, client *http.Client) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	srv := httptest.NewServer(h)
	p, err := Listen(strings.TrimPrefix(srv.URL, "http://"), firstByte, rate)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{MaxConnsPerHost: 1}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		p.Close()
		srv.Close()
		goleak.VerifyNone(t, before)
	})
	return "http://" + p.Addr(), &http.Client{Transport: tr}
}

// Each response on a connection waits, not only the first.
func TestFirstByteWaits(t *testing.T) {
	const delay = 30 * time.Millisecond
	url, client := through(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }, delay, 1<<30)
	for i := range 3 {
		asked := time.Now()
		resp, err := client.Get(fmt.Sprint(url, "/", i))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != fmt.Sprint("/", i) {
			t.Errorf("answer %d is %q, %v", i, body, err)
		}
		if took := time.Since(asked); took < delay {
			t.Errorf("answer %d came after %v, sooner than %v", i, took, delay)
		}
	}
}

// No stream is faster than the rate, and what is passed on is what was sent.
func TestRate(t *testing.T) {
	const size, rate = 4 << 20, 50_000_000
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	url, client := through(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(body, want) {
			t.Errorf("the server got %d bytes, %v", len(body), err)
		}
		w.Write(want)
	}, 0, rate)
	began := time.Now()
	resp, err := client.Post(url, "", bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	least := time.Duration(2*size)*time.Second/rate - 2*burst
	if took := time.Since(began); took < least {
		t.Errorf("%d bytes both ways took %v, less than %v", size, took, least)
	}
}

func TestNobodyBehindIt(t *testing.T) {
	p, err := Listen("127.0.0.1:1", 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if resp, err := http.Get("http://" + p.Addr()); err == nil {
		resp.Body.Close()
		t.Error("an answer from nobody")
	}
	if _, err := Listen("127.0.0.1:1", 0, 0); err == nil {
		t.Error("a proxy without a rate")
	}
}
