package machines

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// metadata answers as a cloud's metadata server does, to one machine: what the
// script, the SDKs and firn machine watch ask for.
type metadata struct {
	gcp  bool
	role func() (string, error) // the answer with the role's credentials

	mu      sync.Mutex // guards what follows
	values  map[string]string
	version int           // of values
	changed chan struct{} // closed with the next version
	denied  int           // requests without the token or header that there must be
}

func serveMetadata(ln net.Listener, gcp bool, role func() (string, error)) *metadata {
	m := &metadata{gcp: gcp, role: role, values: map[string]string{}, changed: make(chan struct{})}
	if gcp {
		m.values["preempted"], m.values["maintenance-event"] = "FALSE", "NONE"
	}
	server := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(ln) }() // until the listener is closed, with the test
	return m
}

// set gives a value another content; "" takes it away.
func (m *metadata) set(key, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values[key] = value
	m.version++
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *metadata) get(key string) (value, etag string, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[key], strconv.Itoa(1000 + m.version), m.changed
}

const imdsToken = "AQAAAImds2Token=="

func (m *metadata) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if m.gcp {
		m.serveGCP(w, r)
		return
	}
	if r.URL.Path == "/latest/api/token" {
		if r.Method != http.MethodPut || r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("X-aws-ec2-metadata-token-ttl-seconds", r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds"))
		fmt.Fprint(w, imdsToken)
		return
	}
	if r.Header.Get("X-aws-ec2-metadata-token") != imdsToken { // IMDSv2 only
		m.deny(w, http.StatusUnauthorized)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/latest/meta-data/")
	const roles = "iam/security-credentials/"
	switch value, _, _ := m.get(path); {
	case path == roles:
		fmt.Fprint(w, "firn-lab")
	case path == roles+"firn-lab":
		m.credentials(w)
	case value != "":
		fmt.Fprint(w, value)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (m *metadata) deny(w http.ResponseWriter, code int) {
	m.mu.Lock()
	m.denied++
	m.mu.Unlock()
	w.WriteHeader(code)
}

func (m *metadata) credentials(w http.ResponseWriter) {
	answer, err := m.role()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, answer)
}

func (m *metadata) serveGCP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	if r.Header.Get("Metadata-Flavor") != "Google" && r.URL.Path != "/" {
		m.deny(w, http.StatusForbidden)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/instance/")
	if path == "service-accounts/default/token" {
		m.credentials(w)
		return
	}
	q := r.URL.Query()
	value, etag, changed := m.get(path)
	if q.Get("wait_for_change") == "true" && q.Get("last_etag") == etag {
		seconds, _ := strconv.Atoi(q.Get("timeout_sec"))
		select {
		case <-changed:
		case <-time.After(time.Duration(seconds) * time.Second):
		case <-r.Context().Done():
			return
		}
		value, etag, _ = m.get(path)
	}
	if value == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("ETag", etag)
	fmt.Fprint(w, value)
}
