package minio

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// errNoAlias says that mc's configuration knows nothing of the server.
var errNoAlias = errors.New("no alias of mc names this server")

// Credentials gives the chain in which keys are looked for; the first that has
// them wins: MINIO_ROOT_USER and MINIO_ROOT_PASSWORD; MINIO_ACCESS_KEY and
// MINIO_SECRET_KEY; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; mc's aliases
// (MC_HOST_name variables, then config.json) whose URL is this server's;
// the AWS credentials file; the container's, pod's or instance's role.
func Credentials(host string, tls bool) *credentials.Credentials {
	return credentials.NewChainCredentials([]credentials.Provider{
		rootEnv{},
		&credentials.EnvMinio{},
		&credentials.EnvAWS{},
		&mcAlias{host: host, tls: tls},
		&credentials.FileAWSCredentials{},
		&credentials.IAM{Client: &http.Client{Timeout: 5 * time.Second}},
	})
}

// rootEnv reads the variables that the server itself takes.
type rootEnv struct{}

func (rootEnv) Retrieve() (credentials.Value, error) {
	return static(os.Getenv("MINIO_ROOT_USER"), os.Getenv("MINIO_ROOT_PASSWORD"), "")
}

func (p rootEnv) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return p.Retrieve()
}

func (rootEnv) IsExpired() bool { return false }

// mcAlias looks up the server by its URL in mc's configuration.
type mcAlias struct {
	host string
	tls  bool
}

func static(access, secret, token string) (credentials.Value, error) {
	if access == "" || secret == "" {
		return credentials.Value{}, errNoAlias
	}
	return credentials.Value{AccessKeyID: access, SecretAccessKey: secret, SessionToken: token, SignerType: credentials.SignatureV4}, nil
}

func (p *mcAlias) Retrieve() (credentials.Value, error) {
	if v, err := p.fromEnv(os.Environ()); err == nil {
		return v, nil
	}
	dir := os.Getenv("MC_CONFIG_DIR")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return credentials.Value{}, err
		}
		dir = filepath.Join(home, ".mc")
	}
	return p.fromFile(filepath.Join(dir, "config.json"))
}

func (p *mcAlias) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return p.Retrieve()
}

func (p *mcAlias) IsExpired() bool { return false }

// is says whether an alias's URL is our server, default ports included.
func (p *mcAlias) is(u *url.URL) bool {
	return u != nil && (u.Scheme == "https") == p.tls && withPort(u.Host, p.tls) == withPort(p.host, p.tls)
}

func withPort(host string, tls bool) string {
	u := url.URL{Host: host}
	switch {
	case u.Port() != "":
		return strings.ToLower(host)
	case tls:
		return strings.ToLower(host) + ":443"
	}
	return strings.ToLower(host) + ":80"
}

// fromEnv reads MC_HOST_name=https://ACCESS:SECRET[:TOKEN]@host.
func (p *mcAlias) fromEnv(environ []string) (credentials.Value, error) {
	sort.Strings(environ)
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "MC_HOST_") {
			continue
		}
		// Secrets may hold any character but @, so url.Parse is of no use.
		scheme, rest, ok := strings.Cut(value, "://")
		at := strings.LastIndex(rest, "@")
		if !ok || at < 0 || !p.is(&url.URL{Scheme: scheme, Host: strings.TrimRight(rest[at+1:], "/")}) {
			continue
		}
		access, secret, _ := strings.Cut(rest[:at], ":")
		secret, token, _ := strings.Cut(secret, ":")
		return static(access, secret, token)
	}
	return credentials.Value{}, errNoAlias
}

func (p *mcAlias) fromFile(path string) (credentials.Value, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return credentials.Value{}, err
	}
	type alias struct {
		URL          string `json:"url"`
		AccessKey    string `json:"accessKey"`
		SecretKey    string `json:"secretKey"`
		SessionToken string `json:"sessionToken"`
	}
	var cfg struct {
		Aliases map[string]alias `json:"aliases"`
		Hosts   map[string]alias `json:"hosts"` // older than 2020
	}
	if err := json.Unmarshal(data, &cfg); err != nil {
		return credentials.Value{}, err
	}
	for _, set := range []map[string]alias{cfg.Aliases, cfg.Hosts} {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			a := set[name]
			if u, err := url.Parse(a.URL); err == nil && p.is(u) {
				if v, err := static(a.AccessKey, a.SecretKey, a.SessionToken); err == nil {
					return v, nil
				}
			}
		}
	}
	return credentials.Value{}, errNoAlias
}
