package blackbox

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/firnlog/firn/test/firntest"
)

// What a broker was told that it runs as is told on, by those who listen on
// all addresses too.
func TestDeployment(t *testing.T) {
	b := firntest.New(t, "--deployment", "0a0b0c0d0e0f.m1")
	port := b.HTTP
	b.HTTP = strings.Replace(port, "127.0.0.1", "0.0.0.0", 1)
	b.Start()
	out, stderr, code := firntest.Run(t, "cluster", "nodes", "--brokers", b.Kafka)
	if code != 0 || !strings.Contains(out, "DEPLOYMENT") || !strings.Contains(out, "0a0b0c0d0e0f.m1") {
		t.Errorf("cluster nodes: exit code %d\n%s%s", code, out, stderr)
	}
	out, _, _ = firntest.Run(t, "cluster", "nodes", "--brokers", b.Kafka, "--output", "json")
	var nodes []struct{ HTTP, Deployment string }
	if err := json.Unmarshal([]byte(out), &nodes); err != nil || len(nodes) != 1 || nodes[0].Deployment != "0a0b0c0d0e0f.m1" || nodes[0].HTTP != port {
		t.Errorf("cluster nodes as JSON: %v\n%s", err, out)
	}
	resp, err := http.Get("http://" + port + "/v1/cluster")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(strings.ReplaceAll(string(body), " ", ""), `"deployment":"0a0b0c0d0e0f.m1"`) {
		t.Errorf("GET /v1/cluster: %v\n%s", err, body)
	}
	quiet := firntest.Start(t)
	if out, _, code := firntest.Run(t, "cluster", "nodes", "--brokers", quiet.Kafka); code != 0 || strings.Contains(out, "DEPLOYMENT") {
		t.Errorf("a broker that was told nothing: exit code %d\n%s", code, out)
	}
	if _, stderr, code := firntest.Run(t, "start", "--deployment", "a b"); code != 2 || !strings.Contains(stderr, "--deployment") {
		t.Errorf("a name with a space: exit code %d\n%s", code, stderr)
	}
}
