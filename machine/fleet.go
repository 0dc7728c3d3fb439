package machine

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// FleetKey is the key of the fleet file below the store's prefix.
const FleetKey = "fleet/fleet.json"

// Fleet is the fleet file: which binary the brokers should run, and which
// machine each of them should have. Terraform writes it, machines read it.
type Fleet struct {
	// Cluster is the cluster's name, the machine file's.
	Cluster string `json:"cluster"`
	// Binary is what every broker should run.
	Binary Binary `json:"binary"`
	// Machines has the wanted Machine of each broker's machine file, by the
	// broker's number in decimal digits.
	Machines map[string]string `json:"machines"`
}

// Binary is a firn binary and where it is to be had.
type Binary struct {
	// URL is https://…, or an object of the cluster's bucket: s3://BUCKET/KEY on
	// AWS, gs://BUCKET/KEY on Google Cloud.
	URL string `json:"url"`
	// SHA256 is the SHA-256 of its bytes, 64 lower-case hexadecimal digits.
	SHA256 string `json:"sha256"`
}

var sha256Text = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ParseFleet reads a fleet file. A field that is not known is an error.
func ParseFleet(data []byte) (Fleet, error) {
	var f Fleet
	if err := decode("fleet file", data, &f); err != nil {
		return Fleet{}, err
	}
	return f, f.check()
}

func (f *Fleet) check() error {
	bad := func(field, remedy, wrong string, args ...any) error {
		return &FieldError{"fleet file", field, fmt.Sprintf(wrong, args...), remedy}
	}
	if !clusterName.MatchString(f.Cluster) {
		return bad("cluster", "give the name that the machine files have", "%q is no cluster's name", f.Cluster)
	}
	if err := f.Binary.check(); err != nil {
		return err
	}
	if len(f.Machines) == 0 {
		return bad("machines", `give each broker's machine, as in {"1": "3f9a1c2b"}`, "no broker is named")
	}
	for id, name := range f.Machines {
		if n, err := strconv.ParseInt(id, 10, 32); err != nil || n < 1 || strconv.FormatInt(n, 10) != id {
			return bad("machines", "name brokers by their numbers, 1 or more", "%q is no broker's number", id)
		}
		if !machineName.MatchString(name) {
			return bad("machines", "give the machine file's field machine: 1 to 32 of a-z, 0-9 and -", "%q of broker %s is no machine's name", name, id)
		}
	}
	return nil
}

func (b Binary) check() error {
	u, err := url.Parse(b.URL)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" || u.User != nil ||
		(u.Scheme != "https" && u.Scheme != "s3" && u.Scheme != "gs") {
		return &FieldError{"fleet file", "binary.url", fmt.Sprintf("%q is no place of a binary", b.URL), "give https://…, s3://BUCKET/KEY or gs://BUCKET/KEY, without a password in it"}
	}
	if !sha256Text.MatchString(b.SHA256) {
		return &FieldError{"fleet file", "binary.sha256", fmt.Sprintf("%q is no SHA-256", b.SHA256), "give the 64 lower-case hexadecimal digits that sha256sum prints"}
	}
	return nil
}

// Deployment is a short name of what a broker runs as: the first twelve digits
// of the binary's SHA-256, and the machine. A broker tells it with its
// registration.
func Deployment(sha256, machine string) string { return sha256[:12] + "." + machine }

// Wanted gives the deployment that a broker should have, and false for a broker
// that the fleet file does not name.
func (f *Fleet) Wanted(broker int32) (string, bool) {
	m, ok := f.Machines[strconv.Itoa(int(broker))]
	if !ok {
		return "", false
	}
	return Deployment(f.Binary.SHA256, m), true
}
