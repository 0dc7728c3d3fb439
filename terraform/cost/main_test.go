package main

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/cost.md anew")

const page = "../../docs/cost.md"

func TestPage(t *testing.T) {
	var want bytes.Buffer
	if err := write(&want, priceTable); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(page, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not what the prices say; write it anew: go test ./terraform/cost -update", page)
	}
}

// TestExamples compares the program's examples with the modules'.
func TestExamples(t *testing.T) {
	setting := func(text, name, otherwise string) string {
		if m := regexp.MustCompile(`(?m)^  ` + name + ` += "?([a-z0-9.-]+)"?$`).FindStringSubmatch(text); m != nil {
			return m[1]
		}
		return otherwise
	}
	defaults := map[string]string{"aws": "i4i.large", "gcp": "n2-standard-4"}
	for _, e := range examples {
		data, err := os.ReadFile("../" + e.Cloud + "/examples/" + e.Name + "/main.tf")
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		ssds := "0"
		if e.Cloud == "gcp" {
			ssds = setting(text, "local_ssds", "1")
		}
		got := fmt.Sprintf("%s of %s with %s SSDs", setting(text, "brokers", "3"), setting(text, "machine_type", defaults[e.Cloud]), ssds)
		if want := fmt.Sprintf("%d of %s with %d SSDs", e.Brokers, e.Machine, e.SSDs); got != want {
			t.Errorf("%s %s: the example has %s, the program %s", e.Cloud, e.Name, got, want)
		}
	}
	for cloud, machine := range defaults {
		text, err := os.ReadFile("../" + cloud + "/main.tf")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), `local   = { amd64 = "`+machine+`"`) {
			t.Errorf("%s: %s is not the module's default any more", cloud, machine)
		}
	}
}

// TestArithmetic computes by hand what the program computes.
func TestArithmetic(t *testing.T) {
	p := prices{}
	for name, usd := range map[string]float64{"x.big": 1, "x.disk": 0.5, "x.zone": 3, "x.nat": 2, "x.ssd": 10, "x.store": 0.1, "x.put": 0.001, "x.get": 0.0001, "x.cross": 0.01} {
		p[name] = price{Name: name, USD: usd}
	}
	m := p.month(example{Cloud: "x", Machine: "big", Brokers: 2, SSDs: 3})
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-6*want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	near("machines", m.Machines, 2*730+2*3*10)
	near("disks", m.Disks, 2*16*0.5)
	near("in all", m.Total, 1520+16+3)
	v := p.volume("x")
	near("kept", v.Kept, 93.132257) // 931.32257 GB of 2^30
	near("written", v.Written, 59604.644775390625*0.001)
	near("replayed", v.Replayed, 238418.5791015625*0.0001)
	near("produced", v.Produced, 9.3132257*(2.0/3+2))
	near("replayed elsewhere", v.ReplayedElsewhere, 23.84185791+9.3132257*2/3)
}

func TestBadTables(t *testing.T) {
	for table, want := range map[string]string{
		`[{"name": "a"}]`: "price above 0",
		`[{"name": "a", "usd": -1, "per": "h", "where": "x"}]`:                                                   "price above 0",
		`[{"name": "a", "usd": 1, "per": "h", "where": "x"}, {"name": "a", "usd": 1, "per": "h", "where": "x"}]`: "twice",
		`[{"name": "a", "usd": 1, "per": "h", "where": "x", "source": "somewhere"}]`:                             "with its date",
		`[{"name": "a", "usd": 1, "per": "h", "where": "x", "source": "the same", "date": "2026-01-01"}]`:        "no line before",
		`[{"name": "a", "price": 1}]`: "unknown field",
	} {
		if _, _, err := read([]byte(table)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", table, err, want)
		}
	}
}
