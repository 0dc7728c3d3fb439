package machine

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const goodFile = `{"cluster": "prod", "cloud": "aws", "broker": 1, "machine": "3f9a1c2b", "rack": "eu-central-1a",
	"host": "broker-1.prod.internal", "seeds": ["broker-1.prod.internal", "broker-2.prod.internal", "broker-3.prod.internal"],
	"store": "s3://prod-logs/firn?region=eu-central-1", "disk": "local", "config": {"min.insync.replicas": "2"}}`

var goodFleet = `{"cluster": "prod", "binary": {"url": "s3://prod-logs/firn/binaries/firn", "sha256": "` + strings.Repeat("0a", 32) + `"},
	"machines": {"1": "3f9a1c2b", "2": "77d0aa91"}}`

func TestParseFile(t *testing.T) {
	m, err := ParseFile([]byte(goodFile))
	if err != nil {
		t.Fatal(err)
	}
	if m.Broker != 1 || m.Host != "broker-1.prod.internal" || len(m.Seeds) != 3 || m.Config["min.insync.replicas"] != "2" {
		t.Errorf("got %+v", m)
	}
	path := filepath.Join(t.TempDir(), "machine.json")
	if err := os.WriteFile(path, []byte(goodFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := ReadFile(path); err != nil || again.Store != m.Store {
		t.Errorf("read back %+v, %v", again, err)
	}
	if _, err := ReadFile(path + ".no"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "user data") {
		t.Errorf("a missing file gives %v", err)
	}
}

// with gives a JSON object with fields changed; nil takes one away.
func with(t *testing.T, object string, change map[string]any) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(object), &m); err != nil {
		t.Fatal(err)
	}
	for k, v := range change {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBadMachineFile(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]any
		field  string
	}{
		"no cluster":          {map[string]any{"cluster": nil}, "cluster"},
		"cluster of capitals": {map[string]any{"cluster": "Prod"}, "cluster"},
		"long cluster":        {map[string]any{"cluster": strings.Repeat("a", 21)}, "cluster"},
		"another cloud":       {map[string]any{"cloud": "azure"}, "cloud"},
		"no broker":           {map[string]any{"broker": nil}, "broker"},
		"broker 0":            {map[string]any{"broker": 0}, "broker"},
		"broker as text":      {map[string]any{"broker": "1"}, "broker"},
		"machine":             {map[string]any{"machine": "a b"}, "machine"},
		"rack":                {map[string]any{"rack": nil}, "rack"},
		"host with port":      {map[string]any{"host": "a:9092"}, "host"},
		"advertise":           {map[string]any{"advertise": "a"}, "advertise"},
		"advertised port":     {map[string]any{"advertise": "a:0"}, "advertise"},
		"two seeds":           {map[string]any{"seeds": []string{"a", "b"}}, "seeds"},
		"seed with port":      {map[string]any{"seeds": []string{"a:2380"}}, "seeds"},
		"seed twice":          {map[string]any{"seeds": []string{"a", "b", "a"}}, "seeds"},
		"store":               {map[string]any{"store": "s4://b"}, "store"},
		"store's region":      {map[string]any{"store": "s3://bucket/firn"}, "store"},
		"store of another":    {map[string]any{"store": "gs://bucket/firn"}, "store"},
		"store on gcp":        {map[string]any{"cloud": "gcp"}, "store"},
		"disk":                {map[string]any{"disk": "floppy"}, "disk"},
		"config":              {map[string]any{"config": map[string]string{"a=b": "c"}}, "config"},
		"config of a number":  {map[string]any{"config": map[string]any{"a": 1}}, "config"},
		"unknown":             {map[string]any{"brocker": 1}, "brocker"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseFile(with(t, goodFile, c.change))
			f, ok := errors.AsType[*FieldError](err)
			if !ok || f.Field != c.field || f.Remedy == "" {
				t.Errorf("got %v, want field %q", err, c.field)
			}
		})
	}
	for name, text := range map[string]string{"empty": "", "torn": goodFile[:40], "two": goodFile + "{}", "list": "[]", "large": strings.Repeat(" ", maxFile+1)} {
		if _, err := ParseFile([]byte(text)); err == nil || !strings.Contains(err.Error(), "machine file") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestParseFleet(t *testing.T) {
	f, err := ParseFleet([]byte(goodFleet))
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := f.Wanted(2); !ok || d != "0a0a0a0a0a0a.77d0aa91" {
		t.Errorf("broker 2 should be %q, %v", d, ok)
	}
	if d, ok := f.Wanted(3); ok {
		t.Errorf("broker 3, which is not named, should be %q", d)
	}
	sum := strings.Repeat("0a", 32)
	for name, c := range map[string]struct {
		change map[string]any
		field  string
	}{
		"cluster":        {map[string]any{"cluster": ""}, "cluster"},
		"no binary":      {map[string]any{"binary": nil}, "binary.url"},
		"ftp":            {map[string]any{"binary": Binary{"ftp://a/b", sum}}, "binary.url"},
		"plain http":     {map[string]any{"binary": Binary{"http://a/b", sum}}, "binary.url"},
		"bucket alone":   {map[string]any{"binary": Binary{"s3://a/", sum}}, "binary.url"},
		"password":       {map[string]any{"binary": Binary{"https://u:p@a/b", sum}}, "binary.url"},
		"no sum":         {map[string]any{"binary": Binary{"https://a/b", ""}}, "binary.sha256"},
		"sum in capital": {map[string]any{"binary": Binary{"https://a/b", strings.ToUpper(sum)}}, "binary.sha256"},
		"no machines":    {map[string]any{"machines": map[string]string{}}, "machines"},
		"broker 0":       {map[string]any{"machines": map[string]string{"0": "a"}}, "machines"},
		"broker 01":      {map[string]any{"machines": map[string]string{"01": "a"}}, "machines"},
		"no name":        {map[string]any{"machines": map[string]string{"1": ""}}, "machines"},
		"unknown":        {map[string]any{"brokers": 3}, "brokers"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseFleet(with(t, goodFleet, c.change))
			f, ok := errors.AsType[*FieldError](err)
			if !ok || f.Field != c.field || f.Remedy == "" {
				t.Errorf("got %v, want field %q", err, c.field)
			}
		})
	}
}

// What is accepted means the same when it is written and read again.
func TestFilesRoundTrip(t *testing.T) {
	host := rapid.StringMatching(`[a-z][a-z0-9-]{0,8}[a-z]\.internal`)
	rapid.Check(t, func(t *rapid.T) {
		seeds := rapid.SliceOfNDistinct(host, 5, 5, rapid.ID).Draw(t, "seeds")
		m := File{
			Cluster: rapid.StringMatching(`[a-z][a-z0-9-]{0,19}`).Draw(t, "cluster"), Cloud: GCP, Broker: rapid.Int32Min(1).Draw(t, "broker"),
			Machine: rapid.StringMatching(`[a-z0-9-]{1,32}`).Draw(t, "machine"), Rack: "z", Host: host.Draw(t, "host"),
			Seeds: seeds[:rapid.SampledFrom([]int{0, 1, 3, 5}).Draw(t, "members")], Store: "gs://bucket/p", Disk: NetworkDisk,
			Config: rapid.MapOfN(rapid.StringMatching(`[a-z.]{1,9}`), rapid.String(), 0, 3).Draw(t, "config"),
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseFile(b)
		if err != nil {
			t.Fatal(err)
		}
		if got.Cluster != m.Cluster || got.Broker != m.Broker || !slices.Equal(got.Seeds, m.Seeds) || !maps.Equal(got.Config, m.Config) {
			t.Fatalf("got %+v, want %+v", got, m)
		}
	})
}

func FuzzParseFiles(f *testing.F) {
	f.Add([]byte(goodFile))
	f.Add([]byte(goodFleet))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ParseFile(data); err == nil && (m.Broker < 1 || m.Store == "") {
			t.Errorf("accepted %+v", m)
		}
		if fl, err := ParseFleet(data); err == nil {
			for id := int32(1); id < 5; id++ {
				if d, ok := fl.Wanted(id); ok && len(d) < 14 {
					t.Errorf("broker %d is wanted as %q", id, d)
				}
			}
		}
	})
}
