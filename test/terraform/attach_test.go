package terraform

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// attachScript renders the script that attaches a network disk, as the module
// does it.
func attachScript(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "terraform/aws/attach-volume.sh.tftpl"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("$${", "${", "${volume}", "vol-0abc", "${region}", region, `${replace(volume, "-", "")}`, "vol0abc").Replace(string(data))
	path := filepath.Join(t.TempDir(), "attach")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// fakeEC2 answers as instance metadata (version 2 only) and as EC2; the answers to
// AttachVolume are given one after another, the last one again and again.
type fakeEC2 struct {
	*httptest.Server
	sync.Mutex
	answers []string
	asked   []string // bodies of AttachVolume
	signed  []string // their Authorization
}

func newFakeEC2(t *testing.T, answers ...string) *fakeEC2 {
	f := &fakeEC2{answers: answers}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.Lock()
		defer f.Unlock()
		const roles = "/latest/meta-data/iam/security-credentials/"
		switch {
		case r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut:
			_, _ = io.WriteString(w, "token")
		case strings.HasPrefix(r.URL.Path, "/latest/") && r.Header.Get("X-aws-ec2-metadata-token") != "token":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/latest/meta-data/instance-id":
			_, _ = io.WriteString(w, "i-0def")
		case r.URL.Path == roles:
			_, _ = io.WriteString(w, "firn")
		case r.URL.Path == roles+"firn":
			_ = json.NewEncoder(w).Encode(map[string]string{"AccessKeyId": "AKIA", "SecretAccessKey": "secret", "Token": "session"})
		case r.URL.Path == "/" && r.Method == http.MethodPost && r.Header.Get("X-Amz-Security-Token") == "session":
			body, _ := io.ReadAll(r.Body)
			f.asked, f.signed = append(f.asked, string(body)), append(f.signed, r.Header.Get("Authorization"))
			answer := f.answers[min(len(f.asked), len(f.answers))-1]
			if !strings.Contains(answer, "<AttachVolumeResponse") {
				w.WriteHeader(http.StatusBadRequest)
			}
			_, _ = io.WriteString(w, answer)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(f.Close)
	return f
}

// run runs the script with a folder in the place of /sys.
func (f *fakeEC2) run(t *testing.T, sys string) (string, error) {
	t.Helper()
	for _, tool := range []string{"bash", "curl", "python3"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, "no %s on the PATH", tool)
		}
	}
	cmd := exec.CommandContext(t.Context(), attachScript(t))
	cmd.Env = append(os.Environ(), "FIRN_METADATA="+f.URL, "FIRN_EC2="+f.URL, "FIRN_TRIES=4", "FIRN_PAUSE=0", "FIRN_SYS="+sys)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

const (
	attached = `<?xml version="1.0"?><AttachVolumeResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><status>attaching</status></AttachVolumeResponse>`
	inUse    = `<Response><Errors><Error><Code>VolumeInUse</Code><Message>vol-0abc is already attached to an instance</Message></Error></Errors></Response>`
	denied   = `<Response><Errors><Error><Code>UnauthorizedOperation</Code></Error></Errors></Response>`
)

func TestAttachVolume(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		f := newFakeEC2(t, attached)
		out, err := f.run(t, t.TempDir())
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		expect(t, "request", f.asked[0], "Action=AttachVolume&Version=2016-11-15&Device=/dev/sdf&VolumeId=vol-0abc&InstanceId=i-0def")
		if !strings.HasPrefix(f.signed[0], "AWS4-HMAC-SHA256 Credential=AKIA/") || !strings.Contains(f.signed[0], "/"+region+"/ec2/aws4_request") {
			t.Errorf("signed as %s", f.signed[0])
		}
	})
	t.Run("after the machine before let go", func(t *testing.T) {
		f := newFakeEC2(t, inUse, inUse, attached)
		if out, err := f.run(t, t.TempDir()); err != nil || len(f.asked) != 3 {
			t.Errorf("%d requests, %v\n%s", len(f.asked), err, out)
		}
	})
	t.Run("at a reboot it is here", func(t *testing.T) {
		sys := t.TempDir()
		dir := filepath.Join(sys, "block/nvme1n1/device")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "serial"), []byte("vol0abc\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		f := newFakeEC2(t, inUse)
		if out, err := f.run(t, sys); err != nil || len(f.asked) != 1 {
			t.Errorf("%d requests, %v\n%s", len(f.asked), err, out)
		}
	})
	t.Run("never", func(t *testing.T) {
		f := newFakeEC2(t, denied)
		out, err := f.run(t, t.TempDir())
		if err == nil || len(f.asked) != 4 || !strings.Contains(out, "UnauthorizedOperation") || !strings.Contains(out, "look at its state and at the machine's role") {
			t.Errorf("%d requests, %v\n%s", len(f.asked), err, out)
		}
		if strings.Contains(out, "secret") {
			t.Errorf("a secret was printed:\n%s", out)
		}
	})
}
