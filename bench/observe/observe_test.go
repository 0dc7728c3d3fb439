package observe

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func TestStat(t *testing.T) {
	parent, cpu, err := ParseStat([]byte("77 (a) b) (c)) S 2 0 0 0 -1 2129984 0 0 0 0 150 50 0 0 20 0 1 0 24 0 0"))
	if err != nil || parent != 2 || cpu != 2 {
		t.Errorf("parent %d, %v CPU seconds, %v", parent, cpu, err)
	}
	for _, bad := range []string{"", "77 (a) S 2", "77 (a) S x 0 0 0 -1 0 0 0 0 0 150 50"} {
		if _, _, err := ParseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestOwnProcess(t *testing.T) {
	now, peak, err := Memory(os.Getpid())
	if err != nil || now <= 0 || peak < now {
		t.Errorf("%d bytes now, %d at the peak: %v", now, peak, err)
	}
	if cpu, err := CPU(os.Getpid()); err != nil || cpu < 0 {
		t.Errorf("%v CPU seconds: %v", cpu, err)
	}
}

func TestMetrics(t *testing.T) {
	answer := "# HELP a of\na 1\nb{c=\"d\"} 2\nf 2.5\n"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(answer))
	}))
	defer s.Close()
	m, err := Metrics(t.Context(), strings.TrimPrefix(s.URL, "http://"))
	if err != nil || m["a"] != 1 || m["f"] != 2.5 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := Metrics(t.Context(), strings.TrimPrefix(s.URL, "http://")+"/none"); err == nil {
		t.Error("an answer of not found was read as metrics")
	}
}
