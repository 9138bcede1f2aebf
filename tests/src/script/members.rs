//! Commands of the Cluster service.

use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::cluster_client::ClusterClient;
use tonic::Response;

use super::print::Printer;
use super::request::Arguments;
use super::{Output, Runner};

/// The commands of this file.
pub(super) const COMMANDS: [&str; 5] =
    ["member_list", "member_add", "member_remove", "member_promote", "member_update"];

impl Runner {
    /// Runs one of [`COMMANDS`].
    pub(super) fn member_command(&mut self, name: &str, mut arguments: Arguments) -> Output {
        let mut client = ClusterClient::new(self.channel.clone());
        let member = match name {
            "member_list" | "member_add" => 0,
            _ => self.member(&arguments.positional_text("member")?)?,
        };
        let urls = match name {
            "member_add" | "member_update" => urls(&arguments.positional_text("urls")?),
            _ => Vec::new(),
        };
        let is_learner = arguments.flag("learner");
        arguments.finish()?;
        let answer = self.runtime.block_on(async move {
            Ok(match name {
                "member_add" => {
                    let request = pb::MemberAddRequest { peer_ur_ls: urls, is_learner };
                    let answer = client.member_add(request).await?.into_inner();
                    Members { added: answer.member, ..(answer.header, answer.members).into() }
                }
                "member_remove" => {
                    let request = pb::MemberRemoveRequest { id: member };
                    let answer = client.member_remove(request).await?.into_inner();
                    (answer.header, answer.members).into()
                }
                "member_promote" => {
                    let request = pb::MemberPromoteRequest { id: member };
                    let answer = client.member_promote(request).await?.into_inner();
                    (answer.header, answer.members).into()
                }
                "member_update" => {
                    let request = pb::MemberUpdateRequest { id: member, peer_ur_ls: urls };
                    let answer = client.member_update(request).await?.into_inner();
                    (answer.header, answer.members).into()
                }
                _ => {
                    let request = pb::MemberListRequest { linearizable: true };
                    let answer = client.member_list(request).await?.into_inner();
                    (answer.header, answer.members).into()
                }
            })
        });
        let print = |printer: &mut Printer, members: Members| {
            printer.members(name, members.header, members.added, members.all)
        };
        Ok(self.printer.answer(answer.map(Response::new), print))
    }

    /// The member that this one is talked to, the other one, or whoever has this number.
    fn member(&mut self, which: &str) -> Result<u64, Box<dyn std::error::Error>> {
        if !["own", "other"].contains(&which) {
            return Ok(which.parse()?);
        }
        let mut client = ClusterClient::new(self.channel.clone());
        let list = client.member_list(pb::MemberListRequest::default());
        let members = self.runtime.block_on(list)?.into_inner().members;
        let is_wanted = |member: &&pb::Member| self.printer.is_own(member.id) == (which == "own");
        let found = members.iter().find(is_wanted).ok_or("there is no such member")?;
        Ok(found.id)
    }
}

/// What all these answers have.
struct Members {
    header: Option<pb::ResponseHeader>,
    added: Option<pb::Member>,
    all: Vec<pb::Member>,
}

impl From<(Option<pb::ResponseHeader>, Vec<pb::Member>)> for Members {
    fn from((header, all): (Option<pb::ResponseHeader>, Vec<pb::Member>)) -> Self {
        Self { header, added: None, all }
    }
}

fn urls(text: &str) -> Vec<String> {
    text.split_terminator(',').map(str::to_owned).collect()
}
