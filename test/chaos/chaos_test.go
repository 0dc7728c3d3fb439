package chaos

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/test/chaos/check"
	"github.com/firnlog/firn/test/firntest"
)

var (
	seed    = flag.Uint64("seed", 0, "of TestChaos; 0 for a new one")
	minutes = flag.Float64("minutes", 2, "of TestChaos: how long faults go on")
	brokers = flag.Int("brokers", 3, "of TestChaos")
	copies  = flag.Int("replicas", 0, "of TestChaos: of each partition; 0 for three, or as many as there are brokers")
	out     = flag.String("out", "", "of TestChaos: an empty folder for history, picture and data, which are kept; without it they are kept in bin/chaos when something is wrong")
)

func TestMain(m *testing.M) {
	ExecBroker()
	tellTime()
	os.Exit(m.Run())
}

// TestChaos does to brokers what the seed says, and checks what clients saw.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano() % 1e9)
	}
	dir, err := folder(t)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("make chaos SEED=%d MINUTES=%v BROKERS=%d; kept in %s", *seed, *minutes, *brokers, dir)
	bin, err := filepath.Abs(firntest.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	librdkafka, err := buildLibrdkafka(t)
	if err != nil {
		t.Logf("NOT ALL IS DONE: no librdkafka, which needs a C compiler: %v", err)
	}
	r, err := Run(t.Context(), config(t, bin, dir, librdkafka))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	if r.Skipped != "" {
		t.Logf("NOT ALL WAS DONE: %s", r.Skipped)
	}
	if !r.Good() {
		t.Errorf("seed %d: history and picture are in %s", *seed, dir)
	}
	// A run in which nothing happened shows nothing.
	total := 0
	for _, n := range r.Steps {
		total += n
	}
	if rep := r.Report; total < 5 || rep.Acked < 1000 || rep.Records < rep.Acked || rep.Committed == 0 || rep.Ended < 7 || rep.Failed == 0 {
		t.Errorf("too little happened")
	}
	if !t.Failed() && *out == "" {
		os.RemoveAll(dir)
	}
}

func config(t *testing.T, bin, dir, librdkafka string) Config {
	began := time.Now()
	// Whoever does not watch is told what was found, not each fault: those are
	// in the folder.
	log := t.Logf
	if !testing.Verbose() {
		f, err := os.Create(filepath.Join(dir, "faults.log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		log = func(format string, args ...any) { fmt.Fprintf(f, format+"\n", args...) }
	}
	return Config{Seed: *seed, Brokers: *brokers, Replicas: *copies, Length: time.Duration(*minutes * float64(time.Minute)), Binary: bin, Librdkafka: librdkafka, Dir: dir,
		Args: []string{"--upload-check", "1s", "--set", "log.retention.check.interval.ms=500", "--set", "group.initial.rebalance.delay.ms=0", "--set", "firn.journal.bytes=134217728", "--set", "offsets.topic.num.partitions=4"},
		Log: func(format string, args ...any) {
			log("%6.2f s  "+format, append([]any{time.Since(began).Seconds()}, args...)...)
		}}
}

// TestChaosFindsLoss takes a broker's records away while it is down: clients
// see it, the checker says it, and the picture shows it.
func TestChaosFindsLoss(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	bin, err := filepath.Abs(firntest.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	c := config(t, bin, t.TempDir(), "")
	c.Brokers, c.Replicas = 1, 1
	c.Plan = []Step{{At: 5 * time.Second, For: time.Second, Action: Forget, Brokers: []int{1}}, {At: 10 * time.Second, Action: Leaders}}
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	if n := r.Report.Count; n[check.LostWrite] == 0 && n[check.InconsistentOffset] == 0 {
		t.Error("nobody noticed")
	}
	picture, err := os.ReadFile(r.Picture)
	if err != nil || !strings.Contains(string(picture), "forget 1") {
		t.Errorf("the picture does not show it: %v", err)
	}
}

// buildLibrdkafka builds the program of librdkafka's clients, in its module.
func buildLibrdkafka(t *testing.T) (string, error) {
	out, err := filepath.Abs("../../bin/chaos-librdkafka")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out, "./chaosclient")
	cmd.Dir = "../librdkafka"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, said)
	}
	return out, nil
}

// folder gives where the run keeps everything.
func folder(t *testing.T) (string, error) {
	if *out != "" {
		return filepath.Abs(*out)
	}
	parent, err := filepath.Abs("../../bin/chaos")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(parent, "seed-*")
}
