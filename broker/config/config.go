// Package config reads what `firn start` is told: flags, FIRN_* variables, a
// YAML file and defaults, in that order of precedence. One table (table.go)
// holds every setting, and flags, variables, file keys and the documentation
// all come from it. What a setting does belongs to the packages that use it.
package config

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/broker/nearest"
)

// Settings are the values of one broker, parsed and checked.
type Settings struct {
	NodeID      int32             // this broker's id, ≥ 0
	Data        string            // folder of everything that is local
	Kafka       string            // host:port that Kafka clients connect to
	Advertise   string            // host:port told to clients, "" for Kafka's
	HTTP        string            // host:port of health, metrics and admin
	Store       string            // URL of the object store; never "" after Load
	Rack        string            // "" for none
	Deployment  string            // what the broker runs as, "" for not told
	Seeds       []string          // host:port of the cluster's etcd members, none for a broker on its own
	Peer        string            // host:port of this broker's etcd member, "" for none
	PeerClient  string            // host:port where that answers other brokers, "" for the port below Peer's
	Set         map[string]string // broker configs that were given, checked
	CacheBytes  int64             // local disk for parts of cold objects
	CacheMemory int64             // memory for those that are being read
	UploadCheck time.Duration     // between two looks at what may be uploaded
	UploadWait  time.Duration     // a small sealed segment waits so long for company
	LogLevel    string            // debug, info, warn, error
	LogFormat   string            // text, json
}

// Inputs are the places that Load reads.
type Inputs struct {
	Flags   map[string]string // flags that were given, by setting name, without dashes
	Set     []string          // NAME=VALUE of each --set, in order
	Environ []string          // as os.Environ gives it
	File    string            // path of the YAML file; "" for the one FIRN_CONFIG names, or none
	// CheckStore says why a store URL cannot be used, nil when it can. It
	// must not open anything. A nil CheckStore accepts every URL.
	CheckStore func(url string) error
}

// Origin says where a value comes from.
type Origin string

// The origins, from the strongest to the weakest.
const (
	FromFlag    Origin = "flag"
	FromEnv     Origin = "env"
	FromFile    Origin = "file"
	FromDefault Origin = "default"
)

// Value is one setting's value as it was given.
type Value struct {
	Setting *Setting
	Text    string // as it was written
	Origin  Origin
	Where   string // "--data", "FIRN_DATA", "firn.yaml:3" or "default"
}

// Shown is the value for people to read: without secrets.
func (v Value) Shown() string {
	if v.Setting.Name == "store" {
		return Redact(v.Text)
	}
	return v.Text
}

// Loaded is the outcome of Load.
type Loaded struct {
	Settings Settings
	Values   []Value    // one per setting but set, in the table's order
	Set      []SetValue // the broker configs that were given, sorted by name
	File     string     // the file that was read, "" for none
}

// Error is one thing that is wrong with the configuration.
type Error struct {
	Where  string // flag, variable or file:line; "" when several are involved
	Key    string // the setting, as Where's kind of place spells it
	Reason string
}

func (e *Error) Error() string {
	switch {
	case e.Where == "":
		return fmt.Sprintf("%s: %s", e.Key, e.Reason)
	case e.Where == e.Key || e.Key == "":
		return fmt.Sprintf("%s: %s", e.Where, e.Reason)
	}
	return fmt.Sprintf("%s: %s: %s", e.Where, e.Key, e.Reason)
}

// Others are FIRN_* variables that something else than start reads (client
// commands, the Makefile); they are no error here.
var Others = []string{"FIRN_BROKERS", "FIRN_CACHE", "FIRN_CONFIG"}

// Load reads all places and checks every value. The error joins one *Error
// per thing that is wrong, so that all of them can be put right at once.
func Load(in Inputs) (*Loaded, error) {
	var errs []error
	env, envErrs := readEnv(in.Environ)
	errs = append(errs, envErrs...)

	out := &Loaded{File: in.File}
	if out.File == "" {
		out.File = env["FIRN_CONFIG"]
	}
	file := contents{}
	if out.File != "" {
		var fileErrs []error
		file, fileErrs = readFile(out.File)
		errs = append(errs, fileErrs...)
	}
	bad := map[string]bool{}
	for i := range table {
		s := &table[i]
		if s.IsSet() {
			errs = append(errs, out.loadSet(in.Set, env[s.Env()], file.set)...)
			continue
		}
		v := pick(s, in.Flags, env, out.File, file.settings)
		out.Values = append(out.Values, v)
		if err := s.set(&out.Settings, v.Text); err != nil {
			bad[s.Name] = true
			errs = append(errs, &Error{Where: v.Where, Key: v.key(), Reason: err.Error()})
		}
	}
	errs = append(errs, out.resolve(in.CheckStore, bad)...)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// pick takes the strongest place's value of s.
func pick(s *Setting, flags, env map[string]string, path string, file map[string]fileValue) Value {
	if t, ok := flags[s.Name]; ok {
		return Value{s, t, FromFlag, "--" + s.Name}
	}
	if t, ok := env[s.Env()]; ok {
		return Value{s, t, FromEnv, s.Env()}
	}
	if f, ok := file[s.Name]; ok {
		return Value{s, f.text, FromFile, fmt.Sprintf("%s:%d", path, f.line)}
	}
	return Value{s, s.Default, FromDefault, string(FromDefault)}
}

// key is how the value's place names the setting.
func (v Value) key() string {
	if v.Origin == FromFile || v.Origin == FromDefault {
		return v.Setting.Name
	}
	return v.Where
}

// value gives the setting's entry in l.
func (l *Loaded) value(name string) *Value {
	for i := range l.Values {
		if l.Values[i].Setting.Name == name {
			return &l.Values[i]
		}
	}
	panic("config: no setting " + name)
}

// resolve fills what depends on other settings and checks what several must
// agree on. Settings in bad are wrong already and not looked at again.
func (l *Loaded) resolve(checkStore func(string) error, bad map[string]bool) []error {
	var errs []error
	s := &l.Settings
	fail := func(name, format string, args ...any) {
		v := l.value(name)
		errs = append(errs, &Error{Where: v.Where, Key: v.key(), Reason: fmt.Sprintf(format, args...)})
	}
	local := s.Store == "" // nobody else has it
	if s.Store == "" && !bad["data"] && !bad["store"] {
		dir, err := filepath.Abs(filepath.Join(s.Data, "objects"))
		if err != nil {
			fail("data", "cannot find its absolute path: %v", err)
		}
		s.Store = (&url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}).String()
		l.value("store").Text = s.Store
	}
	if checkStore != nil && !bad["store"] && s.Store != "" {
		if err := checkStore(s.Store); err != nil {
			fail("store", "%q cannot be used: %s", Redact(s.Store), strings.ReplaceAll(err.Error(), s.Store, Redact(s.Store)))
		}
	}
	if !bad["kafka"] && !bad["advertise"] && s.Advertise == "" && isWildcard(s.Kafka) {
		fail("kafka", "%q means every address of this machine, and clients must be told one of them: set advertise to the HOST:PORT that they can reach", s.Kafka)
	}
	if len(s.Seeds) > 0 && local && !bad["store"] {
		fail("store", "the brokers of a cluster share one object store, and the default is a folder of this broker alone: name one that all of them reach (s3://…, gs://…, minio://…, or file:///DIR on a shared file system)")
	}
	if len(s.Seeds) == 0 && !bad["seeds"] && s.Peer != "" {
		fail("peer", "a peer address is for the members of a cluster: name all of them with seeds")
	}
	if s.Peer == "" && !bad["peer"] && s.PeerClient != "" {
		fail("peer-client", "only a broker with a peer address answers other brokers there: set peer")
	}
	if !bad["kafka"] && !bad["http"] && s.Kafka == s.HTTP && !strings.HasSuffix(s.Kafka, ":0") {
		fail("http", "%q is already taken by kafka: give one of them another port", s.HTTP)
	}
	return errs
}

// serviceLink matches what Kubernetes and Docker set in every container for a
// service whose name begins with "firn"; such variables are not ours.
var serviceLink = regexp.MustCompile(`^FIRN_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// readEnv takes the FIRN_* variables out of environ. An empty variable counts
// as not set.
func readEnv(environ []string) (map[string]string, []error) {
	known := map[string]bool{}
	for _, o := range Others {
		known[o] = true
	}
	for i := range table {
		known[table[i].Env()] = true
	}
	vals := map[string]string{}
	var errs []error
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		switch {
		case !strings.HasPrefix(k, "FIRN_") || v == "":
		case known[k]:
			vals[k] = v
		case serviceLink.MatchString(k):
		default:
			errs = append(errs, &Error{Where: k, Key: k, Reason: "there is no such variable" + didYouMean(k, envNames())})
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return vals, errs
}

func envNames() []string {
	names := slices.Clone(Others)
	for i := range table {
		names = append(names, table[i].Env())
	}
	return names
}

// didYouMean ends an error message with the word of known that is nearest.
func didYouMean(word string, known []string) string {
	if n := nearest.Word(word, known); n != "" {
		return "; did you mean " + n + "?"
	}
	return ""
}
